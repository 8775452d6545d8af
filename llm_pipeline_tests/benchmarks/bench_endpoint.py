"""What the gateway costs: the same questions straight to an engine and through the gateway, in alternating rounds."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.curation.support.customers import customer_messages
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import load_prompt
from llm_pipeline.records import Release
from llm_pipeline.serving.guardrails import build_policy, load_policy
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.release import POLICY, PROMPT, spec_of
from llm_pipeline.store import Home

REQUESTS, ROUNDS = 300, 3


async def _round(url: str, key: str, questions: list[str], clients: int) -> tuple[float, list[float]]:
    """(requests per second, seconds of each request)."""
    waiting, seconds = iter(questions), []

    async def ask(session: aiohttp.ClientSession) -> None:
        for question in waiting:
            body = {"model": "default", "messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0}
            begun = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as reply:
                if reply.status != 200:
                    raise RuntimeError(f"{url}: {reply.status} {await reply.text()}")
                await reply.read()
            seconds.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(ask(session) for _ in range(clients)))
    return len(questions) / (time.perf_counter() - begun), seconds


def main() -> None:
    questions = [m.question for m in customer_messages(SupportConfig(), "2026-01-03", REQUESTS)]
    prompt, policy = load_prompt(PROMPT), build_policy(asdict(load_policy(POLICY)))
    table = Table("clients", "path", "requests/s", "p50 ms", "p99 ms", title=f"{REQUESTS} requests, median of {ROUNDS} alternating rounds")
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        try:
            endpoint = client.ensure_up(home)
            release = Release("tiny_base", prompt.id, None, policy.id, {"name": "transformers"})
            spec = spec_of(DATA / "models" / "tiny_base", prompt, policy)
            client.wait(home, client.deploy(home, release, spec, RolloutConfig(strategy="all_at_once")))
            engine = next(e for e in client.status(home)["engines"] if e["port"])
            paths = {"engine": f"http://127.0.0.1:{engine['port']}", "gateway": endpoint.url}
            for clients in (1, 32):
                rounds: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in paths}
                for _ in range(ROUNDS):
                    for name, url in paths.items():
                        rounds[name].append(asyncio.run(_round(url, endpoint.key, questions, clients)))
                for name, results in rounds.items():
                    every = sorted(s for _, seconds in results for s in seconds)
                    rate = statistics.median(rate for rate, _ in results)
                    p99 = every[int(len(every) * 0.99)]
                    table.add_row(str(clients), name, f"{rate:.0f}", f"{statistics.median(every) * 1e3:.1f}", f"{p99 * 1e3:.1f}")
        finally:
            client.down(home)
    Console().print(table)


if __name__ == "__main__":
    main()
