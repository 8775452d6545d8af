from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from llm_pipeline.errors import ConfigError, MissingError
from llm_pipeline.records import Release
from llm_pipeline.serving.protection.keys import Key, key_hash
from llm_pipeline.serving.traffic.database import metadata, open_database
from llm_pipeline.serving.traffic.state import Engine, Spec, State

SPEC = Spec("/model", {"grounded": "{passages}{question}"}, {})


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    """An endpoint's database of either kind, empty."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres")
        (tmp_path / "endpoint.json").write_text(json.dumps({"database": url}))
    found = State(tmp_path)
    yield found
    found.close()
    if request.param == "postgresql":
        db = open_database(url)
        metadata.drop_all(db)
        db.dispose()


def release(name: str) -> Release:
    return Release(name, "p", None, "g", {"name": "transformers", "threads": 2})


def test_keys_are_kept_as_hashes_and_can_be_revoked(state: State) -> None:
    key = state.keys.add("app", ["chat"])
    assert state.keys.valid() == {key_hash(key): Key(1, "app", frozenset({"chat"}))}
    if (file := state.folder / "endpoint.db").exists():
        assert key not in file.read_bytes().decode("latin-1")
    assert state.keys.revoke("app") == 1
    assert state.keys.valid() == {}
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        state.keys.add("app", ["chatt"])


def test_releases_are_immutable_and_traffic_is_a_history(state: State) -> None:
    a, b = (state.register(release(name), SPEC) for name in "ab")
    state.register(release("a"), Spec("/other", {}, {}))
    assert state.spec(a) == SPEC
    assert state.find(a).release.engine["threads"] == 2
    state.set_traffic({a: 1.0}, "first")
    revision = state.set_traffic({b: 0.1, a: 0.9}, "canary")
    assert state.traffic() == (revision, {b: 0.1, a: 0.9})
    assert [row["reason"] for row in state.history()] == ["canary", "first"]
    with pytest.raises(MissingError, match="no release 'zz'"):
        state.set_traffic({"zz": 1.0}, "x")
    with pytest.raises(ConfigError, match="sum to 1"):
        state.set_traffic({a: 0.5}, "x")


def test_a_new_rollout_ends_the_open_one_and_a_finished_one_stays(state: State) -> None:
    a = state.register(release("a"), SPEC)
    first = state.begin_rollout(a, {})
    second = state.begin_rollout(a, {})
    assert state.rollout(first).status == "failed"  # type: ignore[union-attr]
    state.update_rollout(second, status="promoted")
    state.update_rollout(second, status="held")
    assert state.rollout().status == "promoted"  # type: ignore[union-attr]


def test_releases_that_differ_in_one_other_part_share_their_engine(state: State) -> None:
    shared = {"name": "transformers", "threads": 2}
    first = Release("m", "p", None, "g", shared)
    prompt = Release("m", "other prompt", "index", "other policy", shared | {"retrieval": True, "passages": 3, "replicas": 2})
    threads = Release("m", "p", None, "g", shared | {"threads": 1})
    for made in (first, prompt, threads):
        state.register(made, SPEC)
    assert state.find(first.id).engine == state.find(prompt.id).engine != state.find(threads.id).engine
    assert state.find(prompt.id).replicas == 2
    process = Engine("e-0", state.find(first.id).engine, "http://127.0.0.1:1", 7, "ready", 0, "")
    state.put_engines([process])
    assert state.engines_of(first.id) == state.engines_of(prompt.id) == [process]
    assert state.engines_of(threads.id) == []


def test_engines_come_and_go(state: State) -> None:
    engine = Engine("r-0", "r", "http://127.0.0.1:1", 2, "ready", 0, "")
    state.put_engines([engine])
    state.put_engines([engine])
    assert state.engines() == {"r-0": engine}
    state.put_engines([])
    assert state.engines() == {}


def test_what_gateways_act_on_is_kept_for_those_that_live(state: State) -> None:
    state.observe("gateway-1", 3, at=10.0)
    state.observe("gateway-1", 4, at=11.0)
    state.observe("gateway-2", 3, at=12.0)
    assert state.observations() == {"gateway-1": (4, 11.0), "gateway-2": (3, 12.0)}
    state.forget(but=["gateway-2"])
    assert set(state.observations()) == {"gateway-2"}


def test_a_shadow_is_part_of_the_traffic_record(state: State) -> None:
    a, b = (state.register(release(name), SPEC) for name in "ab")
    revision = state.set_traffic({a: 1.0}, "mirrored", shadow=b)
    assert state.traffic_and_shadow() == (revision, {a: 1.0}, b)
    state.set_traffic({a: 1.0}, "no more")
    assert state.traffic_and_shadow()[2] is None
    with pytest.raises(MissingError):
        state.set_traffic({a: 1.0}, "x", shadow="zz")


def test_a_database_of_an_earlier_version_gets_the_columns_that_came_later(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "endpoint.db")) as db:
        db.execute("CREATE TABLE traffic (revision INTEGER PRIMARY KEY, weights JSON, reason TEXT, at FLOAT)")
        db.execute("INSERT INTO traffic VALUES (1, '{\"a\": 1.0}', 'before', 0.0)")
        db.commit()
    assert State(tmp_path).traffic_and_shadow() == (1, {"a": 1.0}, None)


def test_many_processes_may_open_and_register_at_once(tmp_path: Path, postgres: str) -> None:
    for folder, url in ((tmp_path / "file", None), (tmp_path / "server", postgres)):
        folder.mkdir()
        (folder / "endpoint.json").write_text(json.dumps({"database": url} if url else {}))
        with ThreadPoolExecutor(8) as pool:
            states = list(pool.map(State, [folder] * 8))
            made = set(pool.map(lambda each: each.register(release("a"), SPEC), states))
        assert len(made) == 1
        assert list(states[0].registered()) == list(made)
        for each in states:
            each.close()
