"""A short version of bench_chaos: clients ask all the while, and what goes wrong must cost no wrong and no lost answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.store import Home
from llm_pipeline_tests.benchmarks import bench_chaos
from llm_pipeline_tests.benchmarks.bench_chaos import World, begin, build
from llm_pipeline_tests.serving.chaos import Crowd, Phase, Postgres, recorded, small_disk

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Crowd]]:
    """Two gateways, three releases of fast stand-in engines, state in PostgreSQL, and forty clients."""
    folder = tmp_path_factory.mktemp("chaos")
    home = Home(folder / "home")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(bench_chaos, "SECONDS", 2.0)
        patch.setattr(bench_chaos, "ENGINE_SECONDS", 0.2)
        try:
            postgres = stack.enter_context(Postgres())
        except OSError as error:
            pytest.skip(str(error))
        disk = True
        try:
            stack.enter_context(small_disk(home.endpoint / "interactions", 64))
        except OSError:
            disk = False
        stack.callback(client.down, home)
        endpoint, state, (old, new, real) = build(home, folder, postgres, real=False)
        stack.callback(state.close)
        client.wait(home, state.begin_rollout(old, vars(RolloutConfig(strategy="all_at_once"))), 120)
        begin(home, state, {real: 0.01, old: 0.97, new: 0.02})
        yield World(home, state, postgres, old, new, real, disk, {}), Crowd(endpoint, 40)


def test_nothing_is_wrong_and_nothing_acknowledged_is_lost(world: tuple[World, Crowd]) -> None:
    place, crowd = world
    asyncio.run(bench_chaos.run(place, crowd, bench_chaos.PHASES))
    phases: dict[str, Phase] = {phase.name.partition(" (")[0]: phase for phase in crowd.phases}
    known = recorded(place.home)
    for phase in phases.values():
        assert (phase.wrong, phase.acknowledged - known, phase.without_retry_after) == (0, set(), 0), phase.name
    assert crowd.given_up == 0
    for name in ("steady", "traffic switch", "engine kill -9", "database stop", "rollback", "after"):
        assert phases[name].ok > 0
        assert set(phases[name].errors) <= {"503 log_failed"}, (name, phases[name].errors)  # the last of a full disk may end later
    assert not phases["after"].errors
    assert set(phases["gateway kill -9"].errors) <= {"ServerDisconnectedError", "ClientOSError"}
    if place.disk:
        assert set(phases["disk full"].errors) == {"503 log_failed"}
    assert place.figures["engines started for the rollback"] == 0
    assert place.state.traffic()[1] == {place.old: 1.0}


def test_then_a_killed_supervisor_leaves_no_process(world: tuple[World, Crowd]) -> None:
    place, _ = world
    supervisor = psutil.Process(client.status(place.home)["supervisor"])
    children = supervisor.children(recursive=True)
    assert len(children) >= 4  # two gateways, two engines, perhaps the admin API
    supervisor.kill()
    _, alive = psutil.wait_procs(children, 20)
    assert not alive
