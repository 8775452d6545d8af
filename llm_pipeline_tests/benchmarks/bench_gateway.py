"""What the gateway costs, all features on, before an engine that answers at once: against direct access and LiteLLM's proxy.

python llm_pipeline_tests/benchmarks/bench_gateway.py [--litellm DIR of a virtual environment with litellm[proxy]] [--soak 200000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import uvloop
import yaml
from rich.console import Console
from rich.table import Table

from llm_pipeline.config import load_yaml
from llm_pipeline.serving.gateway.standalone import POLICY
from llm_pipeline.serving.guardrails.policy import DETECTED
from llm_pipeline.serving.protection.keys import Limits
from llm_pipeline.serving.supervision.processes import free_port
from llm_pipeline.serving.traffic.state import State

WORDS = "The monthly fee of this account is three euros and fifty cents unless you are a student or younger than that ".split() * 2
CHUNKS = 35
MUCH = 10**9


class FakeEngine(asyncio.Protocol):
    """Answers every request at once; a stream whose `max_tokens` is above 1000 makes a chunk every 5 ms."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            if b"/v1/traces" in head:
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            else:
                self._answer(json.loads(body))

    def _answer(self, body: dict[str, Any]) -> None:
        if not body.get("stream"):
            return self._transport.write(WHOLE)  # type: ignore[no-any-return]
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        longest = body.get("max_tokens") or 0
        if longest > 1000:
            asyncio.get_running_loop().create_task(self._paced(longest - 1000))
        else:
            self._transport.write(b"".join(EVENTS[: longest or 8]) + LAST)

    async def _paced(self, chunks: int) -> None:
        for i in range(chunks):
            self._transport.write(EVENTS[i % len(EVENTS)])
            await asyncio.sleep(0.005)
        self._transport.write(LAST)


def _framed(event: dict[str, Any] | None) -> bytes:
    data = b"data: " + (json.dumps(event).encode() if event else b"[DONE]") + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": choices, **more}


USAGE = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
EVENTS = [_framed(_event({"role": "assistant", "content": word + " "})) for word in WORDS]
LAST = _framed(_event({}, "stop")) + _framed(_event({}, None, usage=USAGE) | {"choices": []}) + _framed(None) + b"0\r\n\r\n"
_REPLY = json.dumps(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "usage": USAGE,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": " ".join(WORDS[:8])}, "finish_reason": "stop"}],
    }
).encode()  # fmt: skip
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_REPLY), _REPLY)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(FakeEngine, "127.0.0.1", port)
    await server.serve_forever()


@dataclass
class Path_:
    """One way to the engine."""

    name: str
    port: int
    key: str = "x"
    pid: int | None = None
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    streams: list[float] = field(default_factory=list)

    def cpu(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def rss(self) -> float:
        return psutil.Process(self.pid).memory_info().rss / 2**20


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: Path_, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {path.key}\r\n"
    writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b" 200 " not in answer.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"{path.name}: {answer.decode()} {await reader.read(1000)!r}")
    at = answer.find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(answer[at + 15 :].split(b"\r\n", 1)[0]))
        return
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        await reader.readexactly(size + 2)
        if size == 0:
            return


def _question(**more: Any) -> dict[str, Any]:
    """Never the same twice, so that no cache answers it."""
    text = f"What is the monthly fee of account {secrets.token_hex(4)} for a student who travels a lot?"
    return {"model": "default", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


async def _load(path: Path_, requests: int, clients: int, **more: Any) -> tuple[float, list[float]]:
    """(requests per second, seconds of each)."""
    left, seconds = iter(range(requests)), []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", path.port)
        for _ in left:
            body = _question(**more)
            begun = time.perf_counter()
            await _ask(reader, writer, path, body)
            seconds.append(time.perf_counter() - begun)
        writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return requests / (time.perf_counter() - begun), seconds


def run(work: Any) -> Any:
    return uvloop.run(work)


@contextmanager
def process(command: list[str], port: int, log: Path, ready: Callable[[], bool] | None = None, **environment: str) -> Iterator[int]:
    with log.open("ab") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + 180
        while not (ready or (lambda: _listens(port)))():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} did not start: {log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def our_gateway(engine: int, folder: Path, name: str = "gateway", *, detector: bool = True, sync: str = "reply") -> Iterator[Path_]:
    """Every feature on: keys with all limits, the shipped guardrails, a cache, durable interactions, telemetry to a collector.

    Without `detector` the trained one of attacks is off, as it is in any gateway that has none. `sync` says when the log is flushed.
    """
    port, place = free_port(), folder / name
    policy = load_yaml(POLICY)
    if not detector:
        policy["rules"] = {**policy.get("rules", {}), **dict.fromkeys(DETECTED, "off")}
    place.mkdir()
    (place / "policy.yaml").write_text(yaml.safe_dump(policy))
    limits = Limits(MUCH, MUCH, 10_000, MUCH, 1e5)
    key = State(place).keys.add("bench", ["chat"], limits=limits)
    config = {
        "upstreams": {"fake": {"url": f"http://127.0.0.1:{engine}", "prices": {"prompt": 0.1, "completion": 0.2}}},
        "models": {"default": {"cache": {"exact": True}, "policy": str(place / "policy.yaml")}},
        "cache_bytes": 1 << 20,
        "interactions": {"sync": sync},
        "telemetry": {"collectors": [{"endpoint": f"http://127.0.0.1:{engine}/v1/traces"}], "share": 0.01},
    }
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "llm_pipeline.serving.gateway.standalone_cli",
        "--config",
        str(file),
        "--folder",
        str(place),
        "--port",
        str(port),
    ]
    with process(command, port, place / "log", lambda: _answers(f"http://127.0.0.1:{port}/readyz")) as pid:
        yield Path_(name, port, key, pid)


@contextmanager
def litellm(engine: int, folder: Path, environment: Path) -> Iterator[Path_]:
    port, file = free_port(), folder / "litellm.yaml"
    settings = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "x"}
    config = {"model_list": [{"model_name": "default", "litellm_params": settings}], "general_settings": {"master_key": "sk-bench"}}
    file.write_text(yaml.safe_dump(config))
    command = [
        str(environment / "bin" / "litellm"),
        "--config",
        str(file),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--num_workers",
        "1",
    ]
    ready = f"http://127.0.0.1:{port}/health/liveliness"
    with process(
        command, port, folder / "litellm.log", lambda: _answers(ready), LITELLM_LOG="ERROR", LITELLM_LOCAL_MODEL_COST_MAP="True"
    ) as pid:
        yield Path_("LiteLLM", port, "sk-bench", pid)


def compare(paths: list[Path_], requests: int, rounds: int) -> Table:
    for path in paths:
        run(_load(path, 50, 4))
    for _ in range(rounds):
        for path in paths:
            few = max(requests // (20 if path.name == "LiteLLM" else 1), 50)
            path.seconds += run(_load(path, few, 1))[1]
            path.rates.append(run(_load(path, few, 32))[0])
            path.streams.append(run(_load(path, max(few // 4, 50), 32, stream=True, max_tokens=CHUNKS))[0])
    table = Table("path", "p50 ms", "p99 ms", "added p50", "added p99", "requests/s at 32", f"streams of {CHUNKS}/s at 32", "RSS MB")
    direct = paths[0]
    for path in paths:
        p50, p99 = (_quantile(path.seconds, q) * 1e3 for q in (0.5, 0.99))
        base = [_quantile(direct.seconds, q) * 1e3 for q in (0.5, 0.99)]
        rate, streams = statistics.median(path.rates), statistics.median(path.streams)
        added = [f"{p50 - base[0]:.2f}", f"{p99 - base[1]:.2f}"]
        table.add_row(path.name, f"{p50:.2f}", f"{p99:.2f}", *added, f"{rate:.0f}", f"{streams:.0f}", f"{path.rss():.0f}")
    return table


def _quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def costs(path: Path_, requests: int) -> tuple[float, float]:
    """CPU milliseconds of a request, and of a chunk of a stream that is made at 5 ms a chunk."""
    begun = path.cpu()
    run(_load(path, requests, 32))
    whole = (path.cpu() - begun) / requests
    used = []
    for chunks in (10, 110):
        begun = path.cpu()
        run(_load(path, 320, 32, stream=True, max_tokens=1000 + chunks))
        used.append((path.cpu() - begun) / 320)
    return whole * 1e3, (used[1] - used[0]) / 100 * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", type=Path, help="virtual environment with litellm[proxy]")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0, help="so many requests more, with the gateway's memory before and after")
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        return run(_serve(options.engine))  # type: ignore[no-any-return]
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, engine = Path(name), free_port()
        pid = stack.enter_context(process([sys.executable, __file__, "--engine", str(engine)], engine, folder / "engine.log"))
        ours = stack.enter_context(our_gateway(engine, folder))
        light = stack.enter_context(our_gateway(engine, folder, "no detector", detector=False))
        lazy = stack.enter_context(our_gateway(engine, folder, "flush later", sync="background"))
        least = stack.enter_context(our_gateway(engine, folder, "neither", detector=False, sync="background"))
        paths = [Path_("direct", engine, "x", pid), ours, light, lazy, least]
        if options.litellm:
            paths.append(stack.enter_context(litellm(engine, folder, options.litellm)))
        console.print(compare(paths, options.requests, options.rounds))
        for path in paths[1:]:
            few = options.requests // 10 if path.name == "LiteLLM" else options.requests
            request, chunk = costs(path, few)
            console.print(f"CPU of {path.name}: {request:.3f} ms a request, {chunk:.3f} ms a chunk")
        if options.litellm:
            for path in paths[1:-1]:
                times = statistics.median(path.rates) / statistics.median(paths[-1].rates)
                console.print(f"requests/s of {path.name}: {times:.0f} times LiteLLM's")
        if options.soak:
            before = light.rss()
            for part in range(1, 5):
                rate = run(_load(light, options.soak // 4, 32))[0]
                console.print(f"{options.soak * part // 4} requests at {rate:.0f}/s: RSS {before:.1f} -> {light.rss():.1f} MB")


if __name__ == "__main__":
    main()
