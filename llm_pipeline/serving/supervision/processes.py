"""Processes of the endpoint: started apart from whoever started them, ended with their parent, and never mistaken for another."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from llm_pipeline.store import write_atomically

_PR_SET_PDEATHSIG = 1
BACKOFF_SECONDS = (0.3, 1.0, 2.0, 5.0, 10.0, 30.0)


def die_with(parent: int | None) -> None:
    """Have the kernel kill this process when `parent` dies, however it dies (Linux; elsewhere only its orderly end is seen)."""
    if parent is None or not sys.platform.startswith("linux"):
        return
    signal_when_parent_ends(signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Have the kernel send this process a signal then; it keeps that over an exec (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def start(module: str, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Run `python -m module arguments` as our child, with its output appended to `log`."""
    return start_command(_command(module, arguments), log)


def start_command(command: Sequence[str], log: Path, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Run a command as our child, with its output appended to `log`; it inherits `pass_fds` and no other file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, pass_fds=pass_fds)


def start_detached(module: str, arguments: Sequence[str], log: Path) -> None:
    """The same as nobody's child, in a session of its own: it outlives us, and init collects it when it ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = ["setsid", "--fork", *_command(module, arguments)]
    with log.open("ab") as output:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=True)


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def listen(preferred: int | None = None) -> socket.socket:
    """A listening socket on 127.0.0.1, on `preferred` when that is free; a child that inherits it answers there.

    It stays open while children come and go, so a connection made meanwhile waits for the next one instead of being refused.
    """
    for port in (preferred, 0) if preferred else (0,):
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind(("127.0.0.1", port))
        except OSError:
            opened.close()
            continue
        opened.listen(4096)
        opened.setblocking(False)
        return opened
    raise OSError("no free port on 127.0.0.1")


def reserve() -> socket.socket:
    """A port of 127.0.0.1 that is a child's for as long as this socket is open, also while the child is started again.

    It is bound and does not listen: a server that sets SO_REUSEADDR, as all do, may bind the port as well, and nobody who asks for just
    any port is given it.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with reserve() as held:
        return int(held.getsockname()[1])


@dataclass
class Child:
    """One supervised process: started again with growing pauses when it ends or stops answering."""

    command: list[str]
    """Empty for what runs elsewhere and is only probed."""
    log: Path
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    """How often it was started again."""
    ready: bool = False
    failures: int = 0
    """Probes in a row that failed."""
    started: float = 0.0
    next_start: float = 0.0
    next_probe: float = 0.0
    failed_starts: int = 0
    """Starts in a row that ended before the first good probe."""
    detail: str = field(default="")

    @property
    def running(self) -> bool:
        return not self.command or (self.process is not None and self.process.poll() is None)

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    def ensure(self) -> None:
        """Start it if it does not run and its pause is over."""
        now = time.monotonic()
        if self.running:
            return
        if self.process is not None:
            self._ended(now)
        if now >= self.next_start:
            self.process = start_command(self.command, self.log, self.pass_fds)
            self.started, self.next_probe, self.failures = now, now, 0

    def _ended(self, now: float) -> None:
        assert self.process is not None
        self.detail = f"ended with {self.process.returncode} after {now - self.started:.1f} s"
        self.failed_starts = 0 if self.ready else self.failed_starts + 1
        self.restarts, self.ready, self.process = self.restarts + 1, False, None
        self.next_start = now + BACKOFF_SECONDS[min(self.failed_starts, len(BACKOFF_SECONDS) - 1)]

    def answered(self) -> None:
        """Count a good probe."""
        self.ready, self.failures, self.failed_starts = True, 0, 0

    def megabytes(self) -> float:
        """Resident memory of the process and its children."""
        try:
            process = psutil.Process(self.pid)
            return sum(p.memory_info().rss for p in (process, *process.children(recursive=True))) / (1 << 20)
        except psutil.Error:
            return 0.0

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, grace: float = 5.0) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()


def write_pid(path: Path) -> None:
    """Record this process; the start time tells it from a later one with the same number."""
    write_atomically(path, json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))


def read_pid(path: Path) -> int | None:
    """The recorded process if it still runs, else None."""
    try:
        recorded: dict[str, Any] = json.loads(path.read_text())
        process = psutil.Process(recorded["pid"])
        alive = abs(process.create_time() - recorded["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, KeyError, psutil.Error):
        return None
    return int(recorded["pid"]) if alive else None
