"""What the controller does with a rollout, step by step: real database and logs, engines and gateways by word."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.errors import ConfigError, EndpointError
from llm_pipeline.records import Release
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic import rollout
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.rollout import Controller, wanted_replicas
from llm_pipeline.serving.traffic.state import Engine, Rollout, Spec, State
from llm_pipeline.store import Home


class Endpoint:
    """A controller whose gateways act on `seen` and whose engines are ready when `ready` says so."""

    def __init__(self, home: Home) -> None:
        self.home, self.folder = home, home.endpoint
        self.state = State(self.folder)
        self.seen = 10**9
        self.controller = Controller(self.state, self.folder, lambda revision: self.seen >= revision)
        self.requests = 0

    def release(self, name: str, **engine: Any) -> str:
        model = engine.pop("model", name)
        return self.state.register(Release(name, "p", None, "g", {"name": "transformers", **engine}), Spec(f"/{model}", {}, {}))

    def ready(self, *releases: str, replicas: int = 1, state: str = "ready") -> None:
        keys = {self.state.find(name).engine for name in releases}
        self.state.put_engines(
            [Engine(f"{key}-{n}", key, "http://127.0.0.1:9", 7, state, 0, "gone") for key in keys for n in range(replicas)]
        )

    def begin(self, release: str, **config: Any) -> int:
        return self.state.begin_rollout(release, asdict(RolloutConfig(**config)))

    def deployed(self, name: str = "old", **engine: Any) -> str:
        old = self.release(name, **engine)
        self.state.set_traffic({old: 1.0}, "first")
        return old

    def tick(self, times: int = 1) -> Rollout:
        for _ in range(times):
            self.controller.tick()
        found = self.state.rollout()
        assert found is not None
        return found

    def log(self, release: str, count: int, folder: str = "interactions", **fields: Any) -> None:
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        row = {"release": release, "finish_reason": "stop", "seconds": {"first_token": 0.01}, "guardrails": [], "answer": "x"}
        with (self.folder / folder / "1-1.jsonl").open("a") as file:
            for _ in range(count):
                self.requests += 1
                file.write(json.dumps(row | {"id": str(self.requests), "received_at": "2026-01-01T00:00:00+00:00"} | fields) + "\n")

    @property
    def weights(self) -> dict[str, float]:
        return self.state.traffic()[1]


@pytest.fixture
def endpoint(home: Home) -> Iterator[Endpoint]:
    found = Endpoint(home)
    yield found
    found.state.close()


def test_all_at_once_waits_for_the_engine_and_for_every_gateway(endpoint: Endpoint) -> None:
    new = endpoint.release("new")
    endpoint.begin(new)
    assert endpoint.tick(3).status == "warming"
    assert wanted_replicas(endpoint.state) == {new: 1}
    endpoint.ready(new)
    endpoint.seen = 0
    assert endpoint.tick(3).status == "switching"
    assert endpoint.weights == {new: 1.0}
    endpoint.seen = endpoint.state.traffic()[0]
    assert endpoint.tick().status == "promoted"


def test_a_canary_goes_step_by_step_and_keeps_the_old_engine_warm(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, step_requests=20, least_canary=2, allowed_rise=1.0)
    endpoint.ready(old, new)
    assert endpoint.tick().status == "canary"
    for share in (0.1, 0.5):
        assert endpoint.weights == {new: share, old: 1 - share}
        endpoint.log(old, 18)
        assert endpoint.tick().evidence["requests"]["stable"] >= 18
        endpoint.log(new, 4)
        endpoint.tick()
    assert endpoint.tick().status == "promoted"
    assert wanted_replicas(endpoint.state) == {new: 1, old: 1}


def test_a_canary_of_which_too_little_is_known_is_held(endpoint: Endpoint) -> None:
    """Its one bad answer of twenty does not show that it is not one of twenty for everybody, more than the rise that was allowed."""
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, steps=[0.5], step_requests=20, most_requests=60)
    endpoint.ready(old, new)
    endpoint.tick()
    endpoint.log(new, 19)
    endpoint.log(new, 1, finish_reason="error")
    endpoint.log(old, 20)
    found = endpoint.tick()
    assert (found.status, found.evidence["reason"].split(":")[0]) == ("canary", "error")
    endpoint.log(old, 20)
    endpoint.tick(2)
    found = endpoint.tick()
    assert (found.status, endpoint.weights) == ("held", {old: 1.0})
    assert found.evidence["reason"].startswith("undecided after 60 requests: error: twice as many bad requests")


def test_a_bad_canary_loses_its_traffic_and_ends_when_the_gateways_know(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new)
    endpoint.ready(old, new)
    endpoint.tick()
    endpoint.seen = 0
    endpoint.log(new, 5, finish_reason="error")
    found = endpoint.tick()
    assert (found.status, endpoint.weights) == ("switching", {old: 1.0})
    assert endpoint.tick().status == "switching"
    endpoint.seen = endpoint.state.traffic()[0]
    found = endpoint.tick()
    assert (found.status, found.evidence["reason"]) == ("rolled_back", "5 failures in a row")


def test_thumbs_down_takes_a_canary_back(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, step_requests=10**6, most_requests=10**6)
    endpoint.ready(old, new)
    endpoint.tick()
    endpoint.log(old, 90)
    endpoint.log(new, 10)
    for number in range(91, 101):
        endpoint.log("", 1, "feedback", interaction_id=str(number), rating=-1.0)
    assert endpoint.tick(2).status == "rolled_back"
    assert endpoint.tick().evidence["bad"]["feedback"] == {"canary": 10, "stable": 0}


def test_blue_green_switches_only_after_parity(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    class Probe:
        def __init__(self, model: str, url: str, folder: Path, parent: int) -> None:
            found["asked"] = (model, url)

        def result(self) -> Any:
            return found.get("result")

        def stop(self) -> None:
            found["stopped"] = True

    monkeypatch.setattr(rollout, "Probe", Probe)
    old, new = endpoint.deployed(), endpoint.release("new", replicas=2)
    endpoint.begin(new, strategy="blue_green")
    endpoint.ready(old, new)
    assert endpoint.tick(2).status == "warming"  # one of two replicas is not warm
    endpoint.ready(old, new, replicas=2)
    assert endpoint.tick(2).status == "probing"
    assert found["asked"] == ("/new", "http://127.0.0.1:9")
    assert endpoint.weights == {old: 1.0}
    found["result"] = {"holds": True}
    assert endpoint.tick(2).status == "promoted"
    assert endpoint.weights == {new: 1.0}
    assert wanted_replicas(endpoint.state) == {new: 2, old: 1}
    wrong = endpoint.release("wrong")
    endpoint.begin(wrong, strategy="blue_green")
    endpoint.ready(new, wrong)
    found["result"] = {"holds": False}
    assert endpoint.tick(3).status == "failed"
    assert endpoint.weights == {new: 1.0}


def test_rolling_replaces_one_replica_after_the_other(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(replicas=3), endpoint.release("new", replicas=3)
    endpoint.begin(new, strategy="rolling")
    seen = []
    for have in (1, 2, 3):
        endpoint.ready(old, new, replicas=have)
        endpoint.tick(4)
        seen.append((wanted_replicas(endpoint.state), endpoint.weights.get(new)))
    assert seen == [
        ({new: 2, old: 2}, pytest.approx(1 / 3)),
        ({new: 3, old: 1}, pytest.approx(2 / 3)),
        ({new: 3, old: 1}, 1.0),
    ]
    assert endpoint.tick().status == "promoted"


def test_rolling_waits_for_the_gateways_before_a_replica_goes(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(replicas=2), endpoint.release("new", replicas=2)
    endpoint.begin(new, strategy="rolling")
    endpoint.ready(old, new, replicas=2)
    endpoint.seen = 0
    endpoint.tick(6)
    assert endpoint.weights == {new: 0.5, old: 0.5}
    assert wanted_replicas(endpoint.state) == {new: 1, old: 2}
    endpoint.seen = endpoint.state.traffic()[0]
    endpoint.tick()
    assert wanted_replicas(endpoint.state) == {new: 2, old: 1}


def test_a_shadow_is_mirrored_judged_and_answers_nobody(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, strategy="shadow", step_requests=20)
    endpoint.ready(old, new)
    assert endpoint.tick().status == "shadow"
    assert endpoint.state.traffic_and_shadow()[1:] == ({old: 1.0}, new)
    assert wanted_replicas(endpoint.state) == {old: 1, new: 1}
    endpoint.log(old, 20)
    endpoint.log(new, 20, variant="shadow")
    found = endpoint.tick(2)
    assert found.status == "held"
    assert found.evidence["requests"] == {"canary": 20, "stable": 20}
    assert endpoint.state.traffic_and_shadow()[1:] == ({old: 1.0}, None)


def test_a_canary_may_begin_as_a_shadow(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, shadow_requests=10)
    endpoint.ready(old, new)
    endpoint.tick()
    endpoint.log(old, 10)
    endpoint.log(new, 10, variant="shadow")
    assert endpoint.tick().status == "canary"
    assert endpoint.state.traffic_and_shadow()[1:] == ({new: 0.1, old: 0.9}, None)


def test_an_ab_test_runs_until_a_person_decides(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new", model="old")
    number = endpoint.begin(new, strategy="ab", share=0.3, max_seconds=0.0)
    endpoint.ready(old)  # they differ in another part than the engine
    assert endpoint.tick().status in ("warming", "failed")
    number = endpoint.begin(new, strategy="ab", share=0.3)
    endpoint.tick()
    assert endpoint.weights == {new: 0.3, old: 0.7}
    endpoint.log(old, 70)
    endpoint.log(new, 30)
    endpoint.log(old, 30, finish_reason="error")
    found = endpoint.tick(2)
    assert (found.status, found.id) == ("running", number)
    assert found.evidence["requests"] == {"canary": 30, "stable": 100}
    assert found.evidence["e_values_opposite"]["error"] > 10 > 1 > found.evidence["e_values"]["error"]
    with pytest.raises(EndpointError, match="which are compared"):
        client.decide(endpoint.home, "other")
    client.decide(endpoint.home, new)
    assert endpoint.tick(2).status == "promoted"
    assert endpoint.weights == {new: 1.0}
    with pytest.raises(EndpointError, match="no A/B test"):
        client.decide(endpoint.home, new)


def test_an_ab_test_may_be_decided_for_the_old(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, strategy="ab")
    endpoint.ready(old, new)
    endpoint.tick()
    client.decide(endpoint.home, old)
    assert endpoint.tick(2).status == "rolled_back"
    assert endpoint.weights == {old: 1.0}


def test_rollback_of_a_canary_under_way_goes_to_the_stable_release(endpoint: Endpoint) -> None:
    first, old, new = endpoint.deployed("first"), endpoint.release("old"), endpoint.release("new")
    endpoint.state.set_traffic({old: 1.0}, "second")
    endpoint.begin(new)
    endpoint.ready(first, old, new)
    endpoint.tick()
    client.rollback(endpoint.home)
    assert endpoint.tick(2).status == "promoted"
    assert endpoint.weights == {old: 1.0}
    client.rollback(endpoint.home)
    assert endpoint.tick(2).status == "promoted"
    assert endpoint.weights == {first: 1.0}


@pytest.mark.parametrize("strategy", ["all_at_once", "blue_green", "rolling", "canary", "shadow", "ab"])
def test_an_engine_that_does_not_start_gets_no_traffic(endpoint: Endpoint, strategy: str) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, strategy=strategy)
    endpoint.ready(new, state="failed")
    found = endpoint.tick()
    assert (found.status, found.evidence["reason"]) == ("failed", "its engine does not start: gone")
    assert endpoint.weights == {old: 1.0}


@pytest.mark.parametrize(("strategy", "after"), [("canary", "held"), ("shadow", "held"), ("rolling", "held")])
def test_what_takes_too_long_is_held_and_gives_everything_back(
    endpoint: Endpoint, strategy: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = endpoint.deployed(replicas=2), endpoint.release("new", replicas=2)
    endpoint.begin(new, strategy=strategy, max_seconds=100.0)
    endpoint.ready(old, new, replicas=2)
    endpoint.tick(2)
    now: Callable[[], float] = rollout.time.time
    monkeypatch.setattr(rollout.time, "time", lambda: now() + 101)
    assert endpoint.tick(2).status == after
    assert endpoint.state.traffic_and_shadow()[1:] == ({old: 1.0}, None)


def test_a_switch_that_the_gateways_do_not_follow_is_taken_back(endpoint: Endpoint) -> None:
    old, new = endpoint.deployed(), endpoint.release("new")
    endpoint.begin(new, strategy="all_at_once")
    endpoint.ready(old, new)
    endpoint.seen = 0
    assert endpoint.tick(rollout.SETTLE_LOOKS).status == "switching"
    endpoint.tick(2)
    assert endpoint.weights == {old: 1.0}
    endpoint.seen = endpoint.state.traffic()[0]
    found = endpoint.tick()
    assert (found.status, found.evidence["reason"]) == ("failed", "the gateways do not act on it, see their logs")


def test_shares_outside_of_reason_are_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        RolloutConfig(steps=(0.1, 1.0))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        RolloutConfig(share=0.0)
