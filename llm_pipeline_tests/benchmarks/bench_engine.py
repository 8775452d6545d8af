"""Tokens per second of our worker against `transformers serve --continuous-batching`, or against any engine by its settings.

One model, alternating rounds, quiet and beside a process that burns a core. Greedy streams, so that both make the same tokens. CPU time
per token is told besides, since it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from statistics import median

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from llm_pipeline.paths import DATA
from llm_pipeline.serving.supervision.processes import free_port
from llm_pipeline_tests.serving.engines import running_engine, supervised_engine

TINY = DATA / "models" / "tiny_base"
QUESTION = "Customer {}: what is the fee of the account, and when is the help desk open on day {}?"


def random_model(folder: Path) -> Path:
    """27 million random parameters behind the tiny model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.all_special_ids] = 0.0  # it babbles to the end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def transformers_serve(model: Path, log: Path, threads: int) -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--continuous-batching", "--port", str(port),
               "--host", "127.0.0.1", "--dtype", "float32", "--cb-block-size", "32", "--cb-num-blocks", "1024",
               "--cb-max-batch-tokens", "512"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 120
        while asyncio.run(_first_token(f"http://127.0.0.1:{port}", str(model))) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"transformers serve does not answer: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # it need not end on SIGTERM
        process.wait()


async def _first_token(url: str, model: str) -> int | None:
    try:
        async with aiohttp.ClientSession() as session:
            return await _ask(session, url, model, "x", 1)
    except (aiohttp.ClientError, RuntimeError):
        return None


@contextmanager
def busy_neighbour() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _ask(session: aiohttp.ClientSession, url: str, model: str, question: str, longest: int) -> int:
    """Tokens of one streamed answer."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": longest, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    made = 0
    async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"{url}: {reply.status} {(await reply.text())[:200]}")
        async for line in reply.content:
            if line.startswith(b"data: {") and (usage := json.loads(line[6:]).get("usage")):
                made = usage["completion_tokens"]
    return made


async def _round(url: str, model: str, clients: int, requests: int, longest: int) -> tuple[float, float]:
    """Tokens per second, and CPU milliseconds per token, of `clients` that ask one after another."""
    waiting, made = iter(range(requests)), 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal made
        for i in waiting:
            tokens = await _ask(session, url, model, QUESTION.format(i, i * 7), longest)
            made += tokens

    begun, used = time.perf_counter(), cpu_seconds(url)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return made / (time.perf_counter() - begun), (cpu_seconds(url) - used) * 1e3 / made


def cpu_seconds(url: str) -> float:
    """CPU seconds of the process that listens at `url`, and of its children."""
    port = int(url.rpartition(":")[2])
    listening = next(found for found in psutil.net_connections("tcp") if found.laddr.port == port and found.status == psutil.CONN_LISTEN)
    process = psutil.Process(listening.pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="default: a random model of 27 million parameters")
    parser.add_argument("--threads", type=int, default=2, help="of both engines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="per answer")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none", help="of ours")
    parser.add_argument("--against", type=json.loads, help='settings of an engine, such as {"name": "vllm", "executable": ...}')
    options = parser.parse_args()
    other = options.against["name"] if options.against else "transformers serve"
    table = Table("neighbour", "clients", "ours", other, "ratio", "CPU ms/token: ours", "theirs", "theirs / ours")
    table.title = f"tokens/s, median of {options.rounds} alternating rounds"
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        model = options.model or random_model(folder / "model")
        settings = ("--threads", str(options.threads), "--name", str(model), "--quantization", options.quantization)
        ours = stack.enter_context(running_engine(model, folder / "ours.log", *settings))
        if options.against:
            theirs = stack.enter_context(supervised_engine(model, options.against, folder / "theirs.log")).url
        else:
            theirs = stack.enter_context(transformers_serve(model, folder / "theirs.log", options.threads))
        names = {ours: str(model), theirs: "default" if options.against else str(model)}
        for neighbour in (nullcontext, busy_neighbour):
            with neighbour():
                for clients in (1, 8, 32):
                    found: dict[str, list[tuple[float, float]]] = {ours: [], theirs: []}
                    for _ in range(options.rounds):
                        for url, results in found.items():
                            results.append(asyncio.run(_round(url, names[url], clients, max(2, clients), options.tokens)))
                    busy = "quiet" if neighbour is nullcontext else "one busy core"
                    print(f"{busy}, {clients} clients: {found}", file=sys.stderr, flush=True)
                    (our_rates, our_cpu), (rates, cpu) = (zip(*found[url], strict=True) for url in (ours, theirs))
                    faster, cheaper = (median(a / b for a, b in zip(*pair, strict=True)) for pair in ((our_rates, rates), (cpu, our_cpu)))
                    table.add_row(busy, str(clients), f"{median(our_rates):.0f}", f"{median(rates):.0f}", f"{faster:.2f}",
                                  f"{median(our_cpu):.1f}", f"{median(cpu):.1f}", f"{cheaper:.2f}")  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
