"""Many clients whose every answer is checked, and the things that go wrong around them."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from llm_pipeline.serving.observability.interactions import rows_since
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.supervision.client import Endpoint
from llm_pipeline.serving.supervision.processes import free_port
from llm_pipeline.serving.traffic.state import State
from llm_pipeline.store import Home
from llm_pipeline_tests.serving.fake_vllm import answer_to

PAUSE = 1.0
"""Longest wait of a client before it asks again what was refused."""


@dataclass
class Phase:
    """What the clients saw while one thing happened."""

    name: str
    requests: int = 0
    ok: int = 0
    retried: int = 0
    """Questions that were answered after they had been refused or broken off."""
    errors: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)


class Crowd:
    """Clients that each ask numbered questions, one after the other, and ask again what was not answered."""

    def __init__(self, endpoint: Endpoint, clients: int, real: str | None = None) -> None:
        self._endpoint, self._clients, self._real = endpoint, clients, real
        self.phase = Phase("before")
        self.phases = [self.phase]
        self.given_up = 0
        self.real_answers: dict[str, str] = {}
        """Question -> answer of the release whose engine is a real model."""

    def begin(self, name: str) -> Phase:
        self.phase = Phase(name)
        self.phases.append(self.phase)
        return self.phase

    async def run(self, stop: asyncio.Event) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=60, sock_connect=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            await asyncio.gather(*(self._client(http, number, stop) for number in range(self._clients)))

    async def _client(self, http: aiohttp.ClientSession, number: int, stop: asyncio.Event) -> None:
        r = random.Random(number)
        await asyncio.sleep(r.random() * 2)
        count = 0
        while not stop.is_set():
            count += 1
            question = f"What is the answer to number {number * 1000 + count % 1000}?"
            tries = 0
            while not await self._ask(http, question, f"user-{number}", tries):
                tries += 1
                if stop.is_set() or tries > 60:
                    self.given_up += not stop.is_set()
                    break
                await asyncio.sleep(PAUSE * r.random())

    async def _ask(self, http: aiohttp.ClientSession, question: str, user: str, tries: int) -> bool:
        """Whether the question was answered; it counts in the phase in which it ends."""
        began = time.perf_counter()
        body = {"model": "default", "messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0, "user": user}
        headers = {"authorization": f"Bearer {self._endpoint.key}"}
        try:
            async with http.post(f"{self._endpoint.url}/v1/chat/completions", json=body, headers=headers) as reply:
                content = await reply.json(content_type=None)
                status, patience = reply.status, "retry-after" in reply.headers
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            self.phase.requests += 1
            self.phase.errors[type(error).__name__] += 1
            return False
        phase = self.phase
        phase.requests += 1
        if status != 200:
            phase.errors[f"{status} {content['error']['code']}"] += 1
            phase.without_retry_after += status in (429, 503) and not patience
            return False
        phase.ok += 1
        phase.retried += tries > 0
        phase.seconds.append(time.perf_counter() - began)
        phase.acknowledged.add(content["interaction_id"])
        text = content["choices"][0]["message"]["content"]
        if content["release"] == self._real:
            self.real_answers[question] = text
        else:
            phase.wrong += text != answer_to(question)
        return True


def recorded(home: Home) -> set[str]:
    return {row["id"] for row in rows_since(home.endpoint / "interactions", {})}


def kill_gateway(home: Home) -> int:
    """kill -9 one of the gateways."""
    supervisor = psutil.Process(client.status(home)["supervisor"])
    process = next(child for child in supervisor.children() if "llm_pipeline.serving.gateway.app" in child.cmdline())
    process.kill()
    return int(process.pid)


def kill_engine(home: Home, release: str) -> None:
    """kill -9 one replica of a release's engine."""
    state = State(home.endpoint)
    engine = next(engine for engine in state.engines_of(release) if engine.state == "ready")
    state.close()
    os.kill(engine.pid, signal.SIGKILL)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own at `folder`; needs root. Raises OSError when there can be none."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Take all the room there is; remove the file to give it back."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1 << 6, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return path


class Postgres:
    """A PostgreSQL server of one's own that can be stopped and started."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise OSError("no PostgreSQL: install Debian's package `postgresql`")
        self._programs, self._owner = programs[-1].parent, "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        self._folder = Path(tempfile.mkdtemp(prefix="llm_pipeline_postgres_", dir="/tmp"))  # where its owner may go
        if self._owner:
            shutil.chown(self._folder, self._owner)
        self._port = free_port()
        self.url = f"postgresql://tester@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Postgres:
        self._run("initdb", "--auth", "trust", "--username", "tester", "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self._port} -c unix_socket_directories={self._folder} -c fsync=off"
        self._run("pg_ctl", "--options", options, "--log", str(self._folder / "log"), "--wait", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "--mode", "immediate", "--wait", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, user=self._owner, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
