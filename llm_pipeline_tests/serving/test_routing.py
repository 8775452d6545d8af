"""Sticky arms, replicas, and snapshots of a database that comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from llm_pipeline.prompts import load_prompt
from llm_pipeline.records import Release
from llm_pipeline.serving.protection.keys import Limits
from llm_pipeline.serving.traffic.release import PROMPT
from llm_pipeline.serving.traffic.routing import Router, choose
from llm_pipeline.serving.traffic.state import Engine, Spec, State

USERS = [f"user-{i}" for i in range(4000)]


def test_arms_are_sticky_and_have_their_share() -> None:
    weights = {"new": 0.1, "old": 0.9}
    chosen = {user: choose(weights, user) for user in USERS}
    assert chosen == {user: choose(weights, user) for user in USERS}
    assert 0.08 < sum(arm == "new" for arm in chosen.values()) / len(USERS) < 0.12


def test_a_growing_canary_keeps_its_users() -> None:
    small = {user for user in USERS if choose({"new": 0.1, "old": 0.9}, user) == "new"}
    large = {user for user in USERS if choose({"new": 0.5, "old": 0.5}, user) == "new"}
    assert small < large


def test_another_release_is_tried_on_other_users() -> None:
    first = {user for user in USERS if choose({"a": 0.1, "old": 0.9}, user) == "a"}
    second = {user for user in USERS if choose({"b": 0.1, "old": 0.9}, user) == "b"}
    assert len(first & second) < len(first) / 2


class Away(State):
    """A database that can be taken away."""

    away = False

    def traffic_and_shadow(self) -> tuple[int, dict[str, float], str | None]:
        if self.away:
            raise OperationalError("select", {}, Exception("connection refused"))
        return super().traffic_and_shadow()

    def observe(self, component: str, revision: int, at: float | None = None) -> None:
        if self.away:
            raise OperationalError("update", {}, Exception("connection refused"))
        super().observe(component, revision, at)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Away]:
    found = Away(tmp_path)
    found.keys.add("app", ["chat"], labels=["bank"], limits=Limits(requests_per_minute=5), expires_at=4e9)
    yield found
    found.close()


def deployed(state: State, name: str, *, replicas: int = 1, states: tuple[str, ...] = ("ready",)) -> str:
    release = Release(name, "p", None, "g", {"name": "transformers", "replicas": replicas})
    identity = state.register(release, Spec(f"/{name}", asdict(load_prompt(PROMPT)), {}))
    key = state.find(identity).engine
    rows = [Engine(f"{key}-{n}", key, f"http://127.0.0.1:{n}", n, word, 0, "") for n, word in enumerate(states)]
    state.put_engines([*(row for row in state.engines().values() if row.engine != key), *rows])
    return identity


def test_a_snapshot_has_the_replicas_that_are_ready(state: Away) -> None:
    old, new = deployed(state, "old", states=("ready", "draining", "ready", "starting")), deployed(state, "new", states=("starting",))
    state.set_traffic({old: 1.0}, "x", shadow=new)
    router = Router(state)
    snapshot = router.refresh()
    assert snapshot.routes[old].urls == ("http://127.0.0.1:0", "http://127.0.0.1:2")
    assert snapshot.routes[old].engine["name"] == "transformers"
    assert (snapshot.shadow, snapshot.routes[new].url, snapshot.missing()) == (new, None, [])
    router.report(snapshot)
    assert state.observations()[router.name] == (snapshot.revision, snapshot.at)


def test_a_release_that_cannot_be_served_keeps_nothing_else_from_changing(state: Away) -> None:
    old = deployed(state, "old")
    broken = state.register(Release("broken", "p", None, "g", {"name": "transformers"}), Spec("/broken", {"nonsense": 1}, {}))
    state.set_traffic({old: 0.9, broken: 0.1}, "x")
    router = Router(state)
    snapshot = router.refresh()
    assert (set(snapshot.routes), snapshot.missing()) == ({old}, [broken])
    revision = state.set_traffic({old: 1.0}, "back")
    assert router.refresh().revision == revision


def test_without_the_database_the_last_snapshot_stays_and_a_new_gateway_takes_the_copy(state: Away) -> None:
    old = deployed(state, "old")
    state.set_traffic({old: 1.0}, "x")
    router = Router(state)
    known = router.refresh()
    state.away = True
    assert router.refresh() is known
    router.report(known)
    fresh = Router(state)
    copy = fresh.refresh()
    assert (copy.revision, copy.weights, copy.keys, copy.at) == (known.revision, known.weights, known.keys, known.at)
    assert copy.routes[old].urls == known.routes[old].urls
    assert copy.routes[old].prompt == known.routes[old].prompt
    state.away = False
    new = deployed(state, "new")
    state.set_traffic({new: 1.0}, "y")
    assert router.refresh().weights == fresh.refresh().weights == {new: 1.0}


def test_the_copy_is_not_for_others_and_a_damaged_one_is_none(state: Away) -> None:
    Router(state).refresh()
    copy = state.folder / "desired.json"
    assert copy.stat().st_mode & 0o077 == 0
    copy.write_text('{"revision": 1')
    state.away = True
    assert Router(state).refresh().revision == -1


def test_nothing_waits_long_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "endpoint.json").write_text('{"database": "postgresql://nobody@127.0.0.1:1/none"}')
    state = State(tmp_path)
    with pytest.raises(OperationalError, match="refused"):
        state.traffic()
    state.close()
