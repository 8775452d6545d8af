"""The supervisor: makes the endpoint's processes be what the database says, and outlives whoever wrote it there.

python -m llm_pipeline.serving.supervision.supervisor --folder HOME/endpoint [--port 8088] [--gateways 2]
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from llm_pipeline.serving.observability.logs import start_logging
from llm_pipeline.serving.protection.keys import key_hash
from llm_pipeline.serving.supervision.fleet import Fleet, Wanted
from llm_pipeline.serving.supervision.processes import Child, listen, read_pid, write_pid
from llm_pipeline.serving.traffic.database import settings
from llm_pipeline.serving.traffic.rollout import Controller, wanted_replicas
from llm_pipeline.serving.traffic.state import Engine, State
from llm_pipeline.store import write_atomically

log = logging.getLogger(__name__)
TICK_SECONDS = 0.2
SILENCE_SECONDS = 60.0
"""A gateway that has given no sign of life for so long, though the database answers, hangs."""
PREFERRED_PORT = 8088
ADMIN = "llm_pipeline.serving.admin.app"
"""The admin API, where that part is installed."""
LOCAL_KEYS = {"local": ("chat", "feedback"), "simulator": ("chat", "feedback", "simulate"), "replay": ("chat",), "admin": ("admin",)}


class Supervisor:
    """Gateways behind one listening socket, and the engines of every release that has traffic, is on its way, or was the last before."""

    def __init__(self, folder: Path, port: int | None = None, gateways: int | None = None) -> None:
        self.folder, self.state = folder, State(folder)
        known = settings(folder)
        self.socket = listen(port or known.get("port") or PREFERRED_PORT)
        self.port = int(self.socket.getsockname()[1])
        self._tls = [f"--{name.replace('_', '-')}={known[name]}" for name in ("certificate", "private_key") if name in known]
        self.gateways = [self._gateway(n) for n in range(gateways or known.get("gateways") or 1)]
        self.admin_socket = listen(known.get("admin_port")) if importlib.util.find_spec(ADMIN) else None
        self.admin = self._admin(self.admin_socket) if self.admin_socket else None
        self.fleet = Fleet(folder / "logs")
        self.controller = Controller(self.state, folder, self._acted_on)
        self._wanted: dict[str, Wanted] = {}
        self._rows: list[Engine] | None = None
        self._names: list[str] = []
        self._seen: dict[str, tuple[int, float]] = {}
        self._renew: dict[str, float] = {}
        self._answers_since: float | None = time.time()
        self._stop = threading.Event()

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        self.state.put_engines([])
        self.state.forget(but=[])
        self._publish()
        write_pid(self.folder / "supervisor.pid")
        log.info("up: %d gateways on port %d", len(self.gateways), self.port)
        while not self._stop.is_set():
            try:
                self.tick()
            except Exception:
                log.exception("this round failed; the next one tries again")
            self._stop.wait(TICK_SECONDS)
        self.shut_down()

    def tick(self) -> None:
        """One round: learn what should run, supervise it, say what runs, move the rollout on.

        While the database is away what was wanted last is kept running; nothing is drained, and no traffic moves.
        """
        there = self._with_database(self._learn)
        for child in [*self.gateways, *([self.admin] if self.admin else [])]:
            child.ensure()
        if there:
            self._watch_gateways()
        self.fleet.tick(self._wanted, min((at for _, at in self._alive()), default=0.0) if there else 0.0, self._renew)
        if there:
            self._with_database(self._report)
            self._with_database(self.controller.tick)

    def shut_down(self) -> None:
        front = [*self.gateways, *([self.admin] if self.admin else [])]
        for child in front:
            if child.process is not None and child.running:
                child.process.terminate()
        for child in front:
            child.stop(grace=5)
        self.fleet.close()
        self.socket.close()
        if self.admin_socket:
            self.admin_socket.close()
        self._with_database(lambda: self.state.put_engines([]))
        (self.folder / "supervisor.pid").unlink(missing_ok=True)
        log.info("down")

    def _with_database(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except SQLAlchemyError as error:
            if self._answers_since is not None:
                log.warning("the database does not answer, everything stays as it is: %s", error)
            self._answers_since, self._rows = None, None
            return False
        if self._answers_since is None:
            log.info("the database answers again")
            self._answers_since = time.time()
        return True

    def _learn(self) -> None:
        self._wanted = {}
        for release, replicas in wanted_replicas(self.state).items():
            registered = self.state.find(release)
            others = self._wanted.get(registered.engine)
            self._wanted[registered.engine] = Wanted(registered, max(replicas, others.replicas if others else 0))
        self._seen, self._renew = self.state.observations(), self.state.drains.asked()

    def _alive(self) -> list[tuple[int, float]]:
        """What each gateway that runs acts on (-1 before it said so)."""
        return [self._seen.get(f"gateway-{child.pid}", (-1, 0.0)) for child in self.gateways if child.running]

    def _acted_on(self, revision: int) -> bool:
        """Whether every gateway that runs acts on this traffic revision or a later one."""
        alive = self._alive()
        return bool(alive) and all(seen >= revision for seen, _ in alive)

    def _watch_gateways(self) -> None:
        """Kill a gateway that runs but gives no sign of life any more."""
        now = time.time()
        for child in self.gateways:
            _, at = self._seen.get(f"alive-{child.pid}", (-1, 0.0))
            silent = now - max(at, self._answers_since or now, now - (time.monotonic() - child.started))
            if child.running and silent > SILENCE_SECONDS:
                log.warning("gateway %d has been silent for %.0f s: killed, to be started again", child.pid, silent)
                child.kill()
            elif at and child.running and not child.ready:
                child.answered()

    def _report(self) -> None:
        rows = self.fleet.rows()
        if rows != self._rows:
            self.state.put_engines(rows)
            self._rows = rows
        names = [f"{word}-{child.pid}" for word in ("gateway", "alive") for child in self.gateways]
        if names != self._names:
            self.state.forget(but=names)
            self._names = names

    def _gateway(self, number: int) -> Child:
        descriptor = self.socket.fileno()
        command = [sys.executable, "-m", "llm_pipeline.serving.gateway.app", "--folder", str(self.folder), "--fd", str(descriptor)]
        return Child([*command, *self._tls, *_parent()], self.folder / "logs" / f"gateway-{number}.log", (descriptor,))

    def _admin(self, opened: socket.socket) -> Child:
        """The admin API on a socket of its own."""
        command = [sys.executable, "-m", ADMIN, "--folder", str(self.folder), "--fd", str(opened.fileno())]
        return Child([*command, *self._tls, *_parent()], self.folder / "logs" / "admin.log", (opened.fileno(),))

    def _publish(self) -> None:
        """Write where the endpoint is, with keys for this machine's own use, for this user's eyes only."""
        path = self.folder / "endpoint.json"
        known, valid = settings(self.folder), self.state.keys.valid()
        keys = {name: str(known.get("keys", {}).get(name, "")) for name in LOCAL_KEYS}
        for name, scopes in LOCAL_KEYS.items():
            if key_hash(keys[name]) not in valid:
                keys[name] = self.state.keys.add(name, scopes)
        here = f"http{'s' if self._tls else ''}://127.0.0.1"
        known |= {"url": f"{here}:{self.port}", "port": self.port, "pid": os.getpid(), "gateways": len(self.gateways)}
        if self.admin_socket:
            admin = int(self.admin_socket.getsockname()[1])
            known |= {"admin_port": admin, "admin_url": f"{here}:{admin}"}
        known |= {"keys": keys, "key": keys["local"], "simulate_key": keys["simulator"]}
        write_atomically(path, json.dumps(known, indent=1), private=True)


def _parent() -> list[str]:
    return ["--parent", str(os.getpid())]


def main() -> None:
    parser = argparse.ArgumentParser(description="The endpoint's supervisor.")
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder (HOME/endpoint)")
    parser.add_argument("--port", type=int, help=f"the gateways' port; default: as before, {PREFERRED_PORT} when free, else any")
    parser.add_argument("--gateways", type=int, help="gateway processes behind that port; default: as before, else 1")
    options = parser.parse_args()
    start_logging()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.folder / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another supervisor runs already (pid %s)", read_pid(options.folder / "supervisor.pid"))
            return
        Supervisor(options.folder, options.port, options.gateways).run()
    os._exit(0)  # a probe under way must not hold the exit


if __name__ == "__main__":
    main()
