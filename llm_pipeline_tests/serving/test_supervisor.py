"""The supervisor's own work, with engines that start at once: replicas, restarts, memory, draining, orphans, a database that stops."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from llm_pipeline.serving.engine.command import command
from llm_pipeline.serving.supervision.fleet import DRAIN_LEAST, Fleet, Wanted, under_way
from llm_pipeline.serving.supervision.processes import Child, listen
from llm_pipeline.serving.supervision.supervisor import Supervisor
from llm_pipeline.serving.traffic.state import Registered, Spec
from llm_pipeline_tests.serving.conftest import make_release
from llm_pipeline_tests.serving.fake_vllm import write_executable


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Engines:
    """A fleet that is told what is wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fleet = folder, Fleet(folder / "logs")
        self.wanted: dict[str, Wanted] = {}
        self.seen_at = 0.0

    def want(self, name: str, replicas: int, *options: str, **settings: object) -> None:
        release, spec = make_release(self.folder, name)
        engine = {"name": "vllm", "executable": write_executable(self.folder / name, *options), **settings}
        self.wanted[name] = Wanted(Registered(replace(release, engine=engine), spec), replicas)

    def states(self) -> dict[str, str]:
        self.fleet.tick(self.wanted, self.seen_at)
        return {row.name: row.state for row in self.fleet.rows()}

    def wait(self, **states: str) -> None:
        until(lambda: {name.replace("-", "_"): state for name, state in self.states().items()} == states)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    found = Engines(tmp_path)
    yield found
    found.fleet.close()


def test_replicas_start_and_a_killed_one_comes_back(engines: Engines) -> None:
    engines.want("a", 2)
    engines.wait(a_0="ready", a_1="ready")
    first, second = engines.fleet.rows()
    assert first.url != second.url
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: engines.states()["a-0"] != "ready")
    engines.wait(a_0="ready", a_1="ready")
    again, untouched = engines.fleet.rows()
    assert (again.restarts, again.url, untouched.pid) == (1, first.url, second.pid)
    assert "ended with -9" in again.detail


def occupied(port: int, *, shared: bool) -> socket.socket | None:
    """A listening socket of somebody else on this port, unless the system refuses."""
    intruder = socket.socket()
    intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)
    try:
        intruder.bind(("127.0.0.1", port))
        intruder.listen()
    except OSError:
        intruder.close()
        return None
    return intruder


def test_nobody_gets_an_engines_port_before_it_starts_or_between_two_starts(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[socket.socket | None] = []

    def late(settings: Mapping[str, Any], spec: Spec, port: int, name: str = "default") -> list[str]:
        taken.append(occupied(port, shared=False))
        return command(settings, spec, port, name)

    monkeypatch.setattr("llm_pipeline.serving.engine.command.command", late)
    engines.want("a", 1)
    try:
        engines.wait(a_0="ready")
        first = engines.fleet.rows()[0]
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: engines.states()["a-0"] != "ready")
        taken.append(occupied(engines.fleet.replicas["a-0"].port, shared=False))
        engines.wait(a_0="ready")
    finally:
        for intruder in filter(None, taken):
            intruder.close()
    assert taken == [None, None]
    assert engines.fleet.rows()[0].url == first.url


def test_a_port_is_free_again_when_its_engine_is_gone(engines: Engines) -> None:
    engines.want("a", 1)
    engines.wait(a_0="ready")
    port = engines.fleet.replicas["a-0"].port
    engines.wanted.clear()
    engines.seen_at = time.time() + 1000
    until(lambda: not engines.states())
    found = occupied(port, shared=True)
    assert found is not None
    found.close()


def test_the_admin_api_answers_on_the_port_that_was_chosen_for_it(tmp_path: Path) -> None:
    (tmp_path / "endpoint").mkdir()
    supervisor = Supervisor(tmp_path / "endpoint")
    assert supervisor.admin is not None
    assert supervisor.admin_socket is not None
    port = supervisor.admin_socket.getsockname()[1]
    try:
        assert [occupied(port, shared=shared) for shared in (False, True)] == [None, None]
        supervisor.admin.ensure()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as reply:
            assert reply.status == 200
    finally:
        supervisor.shut_down()


def test_an_engine_that_never_starts_is_failed_and_one_that_cannot_be_described_too(engines: Engines) -> None:
    engines.want("a", 1)
    (engines.folder / "a").write_text("#!/bin/sh\nexit 3\n")
    engines.want("b", 1, unknown_setting=1)
    engines.wait(a_0="failed", b_0="failed")
    a, b = engines.fleet.rows()
    assert "ended with 3" in a.detail
    assert "unknown_setting" in b.detail


def test_an_engine_over_its_memory_is_started_again(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    used = {"megabytes": 10.0}
    monkeypatch.setattr(Child, "megabytes", lambda self: used["megabytes"])
    engines.want("a", 1, memory_megabytes=4000)
    engines.wait(a_0="ready")
    used["megabytes"] = 4001.0
    until(lambda: engines.states() and engines.fleet.rows()[0].restarts > 0)
    used["megabytes"] = 10.0
    engines.wait(a_0="ready")


def test_memory_is_that_of_the_process_and_its_children(tmp_path: Path) -> None:
    child = Child([write_executable(tmp_path / "engine", "--megabytes", "200"), "--port=0"], tmp_path / "log")
    assert child.megabytes() == 0.0
    child.ensure()
    try:
        until(lambda: child.megabytes() > 200)
    finally:
        child.stop()


def test_a_draining_engine_ends_when_it_is_idle_and_all_gateways_know(engines: Engines) -> None:
    engines.want("a", 2)
    engines.wait(a_0="ready", a_1="ready")
    engines.want("a", 1)
    engines.wait(a_0="ready", a_1="draining")
    rows = engines.fleet.rows()
    for _ in range(20):
        assert engines.states()["a-1"] == "draining"  # no gateway has read anything since
    engines.want("a", 2)
    engines.wait(a_0="ready", a_1="ready")
    assert engines.fleet.rows() == [rows[0], replace(rows[1], state="ready")]
    engines.want("a", 1)
    engines.states()
    engines.seen_at = time.time() + 2 * DRAIN_LEAST
    engines.wait(a_0="ready")


def test_a_draining_engine_finishes_what_it_answers(engines: Engines) -> None:
    engines.want("a", 1)
    engines.wait(a_0="ready")
    url = engines.fleet.rows()[0].url
    assert under_way(url) == 0
    busy = {url: 1}
    engines.wanted.clear()
    engines.seen_at = time.time() + 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm_pipeline.serving.supervision.fleet.under_way", lambda u: busy[u])
        for _ in range(20):
            assert engines.states() == {"a-0": "draining"}
            time.sleep(0.01)
        busy[url] = 0
        engines.wait()


def test_what_runs_elsewhere_is_only_probed(engines: Engines) -> None:
    engines.want("a", 1)
    engines.wait(a_0="ready")
    url = engines.fleet.rows()[0].url
    release, spec = make_release(engines.folder, "elsewhere")
    engines.wanted["b"] = Wanted(Registered(replace(release, engine={"name": "openai", "url": f"{url}/v1"}), spec), 1)
    engines.wait(a_0="ready", b_0="ready")
    assert [(row.url, row.pid) for row in engines.fleet.rows() if row.engine == "b"] == [(url, 0)]


def test_a_socket_outlives_who_answers_on_it(tmp_path: Path) -> None:
    """Two children behind one socket: connections made while neither runs wait for the next."""
    shared = listen()
    port = shared.getsockname()[1]
    code = (
        "import socket,sys,os\ns=socket.socket(fileno=int(sys.argv[1]))\ns.setblocking(True)\n"
        "while True:\n c,_=s.accept()\n c.sendall(str(os.getpid()).encode())\n c.close()\n"
    )

    def ask(connection: socket.socket) -> int:
        with connection:
            return int(connection.recv(100))

    def start() -> Child:
        child = Child([sys.executable, "-c", code, str(shared.fileno())], tmp_path / "log", (shared.fileno(),))
        child.ensure()
        return child

    waiting = socket.create_connection(("127.0.0.1", port), 30)
    first = start()
    try:
        assert ask(waiting) == first.pid
        first.kill()
        waiting = socket.create_connection(("127.0.0.1", port), 30)
        second = start()
        try:
            assert ask(waiting) == second.pid
        finally:
            second.stop()
    finally:
        first.stop()
        shared.close()


def test_no_engine_outlives_its_fleet(engines: Engines) -> None:
    engines.want("a", 2)
    engines.wait(a_0="ready", a_1="ready")
    family = psutil.Process().children(recursive=True)
    engines.fleet.close()
    _, alive = psutil.wait_procs([p for p in family if "fake_vllm" in " ".join(_line(p))], 10)
    assert not alive


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
