from pathlib import Path

import pytest

from llm_pipeline.errors import ConfigError, MissingError
from llm_pipeline.records import Release
from llm_pipeline.serving.keys import Key, key_hash
from llm_pipeline.serving.state import Engine, Spec, State

SPEC = Spec("/model", {"grounded": "{passages}{question}"}, {})


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


def release(name: str) -> Release:
    return Release(name, "p", None, "g", {"name": "transformers", "threads": 2})


def test_keys_are_kept_as_hashes_and_can_be_revoked(state: State) -> None:
    key = state.keys.add("app", ["chat"])
    assert state.keys.valid() == {key_hash(key): Key(1, "app", frozenset({"chat"}))}
    assert key not in (state.folder / "endpoint.db").read_bytes().decode("latin-1")
    assert state.keys.revoke("app") == 1
    assert state.keys.valid() == {}
    with pytest.raises(ConfigError, match="did you mean 'chat'"):
        state.keys.add("app", ["chatt"])


def test_releases_are_immutable_and_traffic_is_a_history(state: State) -> None:
    a, b = (state.register(release(name), SPEC) for name in "ab")
    state.register(release("a"), Spec("/other", {}, {}))
    assert state.spec(a) == SPEC
    assert state.engine_settings(a)["threads"] == 2
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


def test_engines_come_and_go(state: State) -> None:
    engine = Engine("r", 1, 2, "ready", 0, "")
    state.put_engine(engine)
    state.put_engine(engine)
    assert state.engines() == {"r": engine}
    state.drop_engines()
    assert state.engines() == {}
