"""A release of another engine behind the real supervisor and gateways: traffic moves to it and back, and nobody's request fails.

Each engine needs an environment of its own, named as test_engine_openvino.py and test_engine_vllm.py say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import psutil
import pytest

from llm_pipeline.paths import DATA
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.state import Rollout, State
from llm_pipeline.store import Home
from llm_pipeline_tests.serving.conftest import make_release
from llm_pipeline_tests.serving.load import Load, ask
from llm_pipeline_tests.serving.test_supervisor import until

MODEL = DATA / "models" / "tiny_base"
PROGRAMS = {"openvino": "OPENVINO_PYTHON", "vllm": "VLLM_EXECUTABLE"}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"openvino": {"in_flight": 16}, "vllm": {"dtype": "float32", "gpu_memory": 0.1}}
EASY = RolloutConfig(step_requests=20, least_canary=2, allowed_rise=1.0, alpha=1e-9, max_seconds=900)
"""Whether the other engine is slower is not the question here."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # an engine may compile for minutes


class Switching:
    """An endpoint with all traffic on our own engine, and the release of another."""

    def __init__(self, home: Home, name: str, program: str) -> None:
        self.home = home
        self.where = client.ensure_up(home, timeout=180, gateways=2)
        ours, self.spec = make_release(MODEL, "ours")
        settings = {"name": name, "executable": program, **OPTIONS[name]}
        settings |= {"exports": str(home.root / "exports")} if name == "openvino" else {}
        self.ours, self.other = ours, replace(ours, engine=settings)
        self.state = State(home.endpoint)
        self.turn_to(ours)

    def roll_out(self, release: Any, config: RolloutConfig) -> Rollout:
        return client.wait(self.home, client.deploy(self.home, release, self.spec, config), 1000)

    def turn_to(self, release: Any) -> None:
        """All traffic at once, as soon as the release's engine answers."""
        if self.state.traffic()[1] != {release.id: 1.0}:
            assert self.roll_out(release, RolloutConfig(strategy="all_at_once")).status == "promoted"
        client.wait_ready(self.home, 900)

    def answering(self) -> set[str]:
        replies = [ask(self.where.url, self.where.key) for _ in range(10)]
        assert {status for status, _ in replies} == {200}
        return {reply["release"] for _, reply in replies}

    def processes(self, release: Any) -> list[psutil.Process]:
        """The engine's process and all that it has started."""
        (engine,) = self.state.engines_of(release.id)
        process = psutil.Process(engine.pid)
        return [process, *process.children(recursive=True)]


@pytest.fixture(scope="module", params=PROGRAMS)
def switching(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switching]:
    if not (program := os.environ.get(PROGRAMS[request.param], "")):
        pytest.skip(f"{PROGRAMS[request.param]} names no program of an environment with {request.param}")
    home = Home(tmp_path_factory.mktemp(request.param))
    try:
        found = Switching(home, request.param, program)
        yield found
        found.state.close()
    finally:
        client.down(home)


def test_traffic_moves_to_it_and_back_and_no_request_fails(switching: Switching) -> None:
    with Load(switching.where.url, switching.where.key, clients=1) as load:
        there = switching.roll_out(switching.other, replace(EASY, strategy="blue_green"))
        assert there.status == "promoted", there.evidence
        assert there.evidence["parity"]["equal"] == there.evidence["parity"]["prompts"] > 0
        assert switching.answering() == {switching.other.id}
        assert client.wait(switching.home, client.rollback(switching.home), 60).status == "promoted"
        assert switching.answering() == {switching.ours.id}
        again = switching.roll_out(switching.other, replace(EASY, strategy="canary"))
        assert again.status == "promoted", again.evidence
        assert switching.answering() == {switching.other.id}
    assert set(load.statuses) == {200}
    assert set(load.releases) == {switching.ours.id, switching.other.id}


def test_a_killed_one_comes_back(switching: Switching) -> None:
    switching.turn_to(switching.other)
    before = switching.processes(switching.other)
    (engine,) = switching.state.engines_of(switching.other.id)
    before[0].kill()
    _, alive = psutil.wait_procs(before, 30)
    assert not alive

    def back() -> bool:
        (now,) = switching.state.engines_of(switching.other.id)
        return now.state == "ready" and now.restarts > engine.restarts

    until(back, 600)
    client.wait_ready(switching.home)
    assert switching.answering() == {switching.other.id}


def test_without_traffic_it_is_drained_and_ends_with_all_that_it_started(switching: Switching) -> None:
    switching.turn_to(switching.other)
    gone = switching.processes(switching.other)
    with Load(switching.where.url, switching.where.key, clients=1) as load:
        for number in range(2):  # the release before is kept warm, so a second one follows
            switching.turn_to(replace(switching.ours, prompt=f"another {number}"))
        until(lambda: not switching.state.engines_of(switching.other.id), 120)
        _, alive = psutil.wait_procs(gone, 30)
    assert not alive
    assert set(load.statuses) == {200}


def test_a_killed_supervisor_takes_it_along(switching: Switching) -> None:
    switching.turn_to(switching.other)
    supervisor = psutil.Process(client.status(switching.home)["supervisor"])
    family = supervisor.children(recursive=True)
    assert set(switching.processes(switching.other)) <= set(family)
    supervisor.kill()
    _, alive = psutil.wait_procs(family, 30)
    assert not alive
