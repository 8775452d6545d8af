"""The supervisor: makes the endpoint's processes be what the database says, and outlives whoever wrote it there.

python -m llm_pipeline.serving.supervisor --folder HOME/endpoint [--port 8088]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llm_pipeline.serving.keys import key_hash
from llm_pipeline.serving.processes import Child, free_port, read_pid, write_pid
from llm_pipeline.serving.rollout import Controller
from llm_pipeline.serving.state import Engine, State
from llm_pipeline.store import write_atomically

log = logging.getLogger(__name__)
TICK_SECONDS = 0.25
PROBE_EVERY = 2.0
PROBE_DEADLINE = 15.0
START_DEADLINE = 180.0
FAILED_PROBES = 3
FAILED_STARTS = 3
"""Starts of an engine in a row that may fail before its release is called failed."""
DRAIN_SECONDS = 8.0
PREFERRED_PORT = 8088
LOCAL_KEYS = {"local": ("chat", "feedback"), "simulator": ("chat", "feedback", "simulate"), "replay": ("chat",)}


class Supervisor:
    """One gateway, and one engine for each release that has traffic, is warming, or was the last before the current one."""

    def __init__(self, folder: Path, port: int | None) -> None:
        self.folder, self.state = folder, State(folder)
        self.controller = Controller(self.state, folder)
        self.engines: dict[str, Child] = {}
        known = _read(folder / "endpoint.json").get("port")
        gateway_port = free_port(port or known or PREFERRED_PORT)
        self.gateway = Child("llm_pipeline.serving.gateway", ["--folder", str(folder)], folder / "logs" / "gateway.log", gateway_port)
        self._probes: dict[str, Future[bool]] = {}
        self._pool = ThreadPoolExecutor(8, "probe")
        self._stop = threading.Event()

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        self.state.drop_engines()
        self._publish()
        write_pid(self.folder / "supervisor.pid")
        log.info("up: gateway on port %d", self.gateway.port)
        while not self._stop.is_set():
            try:
                self.tick()
            except Exception:
                log.exception("this round failed; the next one tries again")
            self._stop.wait(TICK_SECONDS)
        self.shut_down()

    def tick(self) -> None:
        """One round: start what should run, probe what runs, end what should not, move the rollout on."""
        wanted = self._wanted()
        self._supervise("gateway", self.gateway, "/healthz")
        for release in wanted:
            if release not in self.engines:
                self.engines[release] = self._engine(release)
            self.engines[release].unwanted_since = None
            self._supervise(release, self.engines[release], "/health")
        for release in [name for name in self.engines if name not in wanted]:
            self._drain(release)
        self._report()
        self.controller.tick()

    def shut_down(self) -> None:
        children = [self.gateway, *self.engines.values()]
        for child in children:
            if child.process is not None and child.running:
                child.process.terminate()
        for child in children:
            child.stop(grace=5)
        self.state.drop_engines()
        (self.folder / "supervisor.pid").unlink(missing_ok=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
        log.info("down")

    def _wanted(self) -> list[str]:
        names = list(self.state.traffic()[1])
        rollout = self.state.rollout()
        if rollout is not None:
            if not rollout.finished:
                names.append(rollout.release)
            elif rollout.status == "promoted" and rollout.previous:
                names.append(rollout.previous)  # kept warm, so that going back takes a moment
        return list(dict.fromkeys(names))

    def _engine(self, release: str) -> Child:
        spec = self.state.spec(release)
        settings = self.state.engine_settings(release)
        arguments = ["--model", spec.model_path, "--name", release]
        for name in ("threads", "dtype", "kv_megabytes", "in_flight", "queue"):
            if name in settings:
                arguments += [f"--{name.replace('_', '-')}", str(settings[name])]
        return Child("llm_pipeline.serving.engine", arguments, self.folder / "logs" / f"engine-{release}.log", free_port())

    def _supervise(self, name: str, child: Child, path: str) -> None:
        """Keep one child running, and kill it when it runs but does not answer."""
        if name not in self.engines or child.failed_starts < FAILED_STARTS:
            child.ensure()
        probe = self._probes.get(name)
        if probe is not None and probe.done():
            del self._probes[name]
            self._judge(name, child, probe.result())
        if child.running and name not in self._probes and time.monotonic() >= child.next_probe:
            child.next_probe = time.monotonic() + (PROBE_EVERY if child.ready else TICK_SECONDS)
            self._probes[name] = self._pool.submit(probe_url, f"http://127.0.0.1:{child.port}{path}")

    def _judge(self, name: str, child: Child, good: bool) -> None:
        if not child.running:
            return
        if good:
            if not child.ready:
                log.info("%s is ready on port %d (restarts: %d)", name, child.port, child.restarts)
            child.ready, child.failures, child.failed_starts = True, 0, 0
            return
        child.failures += 1
        too_late = not child.ready and time.monotonic() - child.started > START_DEADLINE
        if too_late or (child.ready and child.failures >= FAILED_PROBES):
            log.warning("%s does not answer: killed, to be started again", name)
            child.kill()

    def _drain(self, release: str) -> None:
        """End an engine some seconds after its traffic went away, so that what it was answering is answered."""
        child = self.engines[release]
        child.unwanted_since = child.unwanted_since or time.monotonic()
        if time.monotonic() - child.unwanted_since > DRAIN_SECONDS:
            child.stop()
            del self.engines[release]
            self._probes.pop(release, None)
            log.info("engine of %s ended", release)

    def _report(self) -> None:
        known = self.state.engines()
        for release, child in self.engines.items():
            status = "ready" if child.ready and child.running else "failed" if child.failed_starts >= FAILED_STARTS else "starting"
            row = Engine(release, child.port, child.process.pid if child.process else 0, status, child.restarts, child.detail)
            if known.get(release) != row:
                self.state.put_engine(row)
        if set(known) - set(self.engines):
            self.state.drop_engines(list(self.engines))

    def _publish(self) -> None:
        """Write where the endpoint is, with keys for this machine's own use, for this user's eyes only."""
        path = self.folder / "endpoint.json"
        known, valid = _read(path), self.state.keys.valid()
        keys = {name: str(known.get("keys", {}).get(name, "")) for name in LOCAL_KEYS}
        for name, scopes in LOCAL_KEYS.items():
            if key_hash(keys[name]) not in valid:
                keys[name] = self.state.keys.add(name, scopes)
        content = {"url": f"http://127.0.0.1:{self.gateway.port}", "port": self.gateway.port, "pid": os.getpid(), "keys": keys}
        write_atomically(path, json.dumps(content | {"key": keys["local"], "simulate_key": keys["simulator"]}, indent=1))
        path.chmod(0o600)


def probe_url(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PROBE_DEADLINE) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    parser = argparse.ArgumentParser(description="The endpoint's supervisor.")
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder (HOME/endpoint)")
    parser.add_argument("--port", type=int, help=f"the gateway's port; default {PREFERRED_PORT} when free, else any")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another supervisor runs already (pid %s)", read_pid(options.folder / "supervisor.pid"))
            return
        Supervisor(options.folder, options.port).run()
    os._exit(0)  # a probe under way must not hold the exit


if __name__ == "__main__":
    main()
