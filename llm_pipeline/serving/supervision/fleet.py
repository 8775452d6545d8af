"""The engine processes: for every engine as many replicas as are wanted, each probed, restarted, drained and held to its memory."""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llm_pipeline.serving.engine import command as engine_command
from llm_pipeline.serving.supervision.processes import Child, reserve
from llm_pipeline.serving.traffic.state import Engine, Registered

log = logging.getLogger(__name__)
FAST_PROBE, PROBE_EVERY, PROBE_ELSEWHERE = 0.25, 2.0, 30.0
PROBE_DEADLINE = 15.0
FAILED_PROBES = 3
FAILED_STARTS = 3
"""Starts of an engine in a row that may fail before it is called failed."""
DRAIN_LEAST, DRAIN_MOST = 1.0, 60.0
"""Seconds in which an engine without traffic may finish what it is answering."""


@dataclass(frozen=True)
class Wanted:
    """An engine that should run."""

    registered: Registered
    replicas: int


@dataclass
class Replica:
    """One process of an engine."""

    engine: str
    settings: Mapping[str, Any]
    held: socket.socket
    """Keeps its port."""
    child: Child
    probe: Future[bool] | None = None
    busy: Future[int | None] | None = None
    draining_since: float | None = None
    """Unix time."""
    made_at: float = field(default_factory=time.time)
    port: int = field(init=False)
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.port = int(self.held.getsockname()[1])
        self.url = engine_command.address(self.settings, self.port)

    @property
    def state(self) -> str:
        if self.draining_since is not None:
            return "draining"
        if self.child.ready and self.child.running:
            return "ready"
        return "failed" if self.child.failed_starts >= FAILED_STARTS else "starting"


class Fleet:
    """All engine processes of an endpoint."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.replicas: dict[str, Replica] = {}
        self._pool = ThreadPoolExecutor(8, "probe")

    def tick(self, wanted: Mapping[str, Wanted], seen_at: float, renew: Mapping[str, float] = MappingProxyType({})) -> None:
        """Start what should run, probe what runs, end what should not once it is idle.

        `seen_at`: all gateways act on what was written before this time, so none of them sends more to an engine that drained earlier.
        `renew`: replica -> when it was asked to give way to a new one; it is drained first.
        """
        names = {f"{engine}-{n}": engine for engine, want in wanted.items() for n in range(want.replicas)}
        for name, engine in names.items():
            if name not in self.replicas:
                self.replicas[name] = self._replica(name, engine, wanted[engine].registered)
            if renew.get(name, 0.0) > self.replicas[name].made_at:
                self._drain(name, self.replicas[name], seen_at)
                continue
            self.replicas[name].draining_since = None
            self._supervise(name, self.replicas[name])
        for name in [name for name in self.replicas if name not in names]:
            self._drain(name, self.replicas[name], seen_at)

    def rows(self) -> list[Engine]:
        return [
            Engine(name, replica.engine, replica.url, replica.child.pid, replica.state, replica.child.restarts, replica.child.detail)
            for name, replica in sorted(self.replicas.items())
        ]

    def close(self) -> None:
        children = [replica.child for replica in self.replicas.values()]
        for child in children:
            if child.process is not None and child.running:
                child.process.terminate()
        for replica in self.replicas.values():
            replica.child.stop(grace=5)
            replica.held.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _replica(self, name: str, engine: str, registered: Registered) -> Replica:
        settings, held = registered.release.engine, reserve()
        try:
            line = engine_command.command(settings, registered.spec, held.getsockname()[1])
            child = Child(line, self._logs / f"engine-{name}.log")
        except Exception as error:
            log.exception("engine %s cannot be started", name)
            child = Child([], self._logs / f"engine-{name}.log", failed_starts=FAILED_STARTS, detail=str(error))
            return Replica(engine, {}, held, child)
        return Replica(engine, settings, held, child)

    def _supervise(self, name: str, replica: Replica) -> None:
        """Keep one process running, and kill it when it runs but does not answer or takes too much memory."""
        child = replica.child
        child.ensure()
        if replica.probe is not None and replica.probe.done():
            self._judge(name, replica, replica.probe.result())
            replica.probe = None
        if child.running and replica.probe is None and time.monotonic() >= child.next_probe:
            pause = FAST_PROBE if not child.ready else PROBE_EVERY if child.command else PROBE_ELSEWHERE
            child.next_probe = time.monotonic() + pause
            replica.probe = self._pool.submit(engine_command.answers, replica.settings, replica.port, PROBE_DEADLINE)
            self._limit_memory(name, replica)

    def _limit_memory(self, name: str, replica: Replica) -> None:
        most = replica.settings.get("memory_megabytes")
        used = replica.child.megabytes() if most else 0.0
        if most and used > most:
            log.warning("engine %s has %.0f MB, more than %d: killed, to be started again", name, used, most)
            replica.child.kill()

    def _judge(self, name: str, replica: Replica, good: bool) -> None:
        child = replica.child
        if not child.running:
            return
        if good:
            if not child.ready:
                log.info("engine %s is ready at %s (restarts: %d)", name, replica.url, child.restarts)
            return child.answered()
        child.failures += 1
        if not child.command:  # the gateway's circuit breaker watches what runs elsewhere; here it only has to answer once
            child.failed_starts = FAILED_STARTS if not child.ready and child.failures >= 10 * FAILED_STARTS else child.failed_starts
            return
        too_late = not child.ready and time.monotonic() - child.started > engine_command.parse_settings(replica.settings).start_seconds
        if too_late or (child.ready and child.failures >= FAILED_PROBES):
            log.warning("engine %s does not answer: killed, to be started again", name)
            child.kill()

    def _drain(self, name: str, replica: Replica, seen_at: float) -> None:
        """End a replica when every gateway knows that it is not to be asked any more and it has answered what it was asked."""
        now = time.time()
        replica.draining_since = replica.draining_since or now
        waited = now - replica.draining_since
        idle = False
        if replica.busy is not None and replica.busy.done():
            idle, replica.busy = replica.busy.result() == 0, None
        known = seen_at > replica.draining_since + DRAIN_LEAST
        if not replica.child.running or not replica.child.command or (known and idle) or waited > DRAIN_MOST:
            replica.child.stop()
            replica.held.close()
            del self.replicas[name]
            log.info("engine %s ended after draining for %.1f s", name, waited)
        elif known and replica.busy is None:
            replica.busy = self._pool.submit(under_way, replica.url)


def under_way(url: str, timeout: float = 5.0) -> int | None:
    """How many requests an engine is answering or keeps waiting, by its /health (ours) or /metrics (vLLM); None when it does not say."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout) as reply:
            found = json.loads(reply.read() or b"null")
        if isinstance(found, dict) and "running" in found:
            return int(found["running"]) + int(found.get("waiting", 0))
        with urllib.request.urlopen(f"{url}/metrics", timeout=timeout) as reply:
            lines = reply.read().decode("utf-8", "replace").splitlines()
    except (urllib.error.URLError, OSError, ValueError):
        return None
    counts = [line.rpartition(" ")[2] for line in lines if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))]
    return int(sum(map(float, counts))) if counts else None
