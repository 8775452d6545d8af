"""Every strategy on a real endpoint, two gateways and real engines, with clients that ask all the while: no request may fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.prompts import load_prompt
from llm_pipeline.serving.gateway.mirror import VARIANT
from llm_pipeline.serving.observability.interactions import latest_rows
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.release import PROMPT
from llm_pipeline.serving.traffic.state import Rollout, State
from llm_pipeline_tests.serving.conftest import Live, make_release, save_model
from llm_pipeline_tests.serving.load import Load, ask
from llm_pipeline_tests.serving.test_supervisor import until

pytestmark = pytest.mark.slow


class Endpoint:
    """The running endpoint, and what a test asks of it."""

    def __init__(self, live: Live) -> None:
        self.live, self.home = live, live.home
        self.where = client.ensure_up(live.home, timeout=180)
        client.wait_ready(live.home)
        self.state = State(live.home.endpoint)

    def load(self) -> Load:
        return Load(self.where.url, self.where.key)

    def variant(self, name: str, model: Path | None = None, **engine: Any) -> tuple[Any, Any]:
        """A release with another prompt, or also another model or other engine settings."""
        release, spec = make_release(model or Path(self.live.spec.model_path), name)
        prompt = asdict(replace(load_prompt(PROMPT), system=f"You are {name}."))
        return replace(release, prompt=name, engine=release.engine | engine), replace(spec, prompt=prompt)

    def roll_out(self, release: Any, spec: Any, strategy: str, **config: Any) -> Rollout:
        settings = RolloutConfig(strategy=strategy, step_requests=20, least_canary=2, allowed_rise=1.0, max_seconds=300, **config)  # type: ignore[arg-type]
        return client.wait(self.home, client.deploy(self.home, release, spec, settings), 300)

    def pids(self) -> set[int]:
        return {engine.pid for engine in self.state.engines().values() if engine.state == "ready"}

    def agreed(self) -> bool:
        """Whether every gateway acts on the newest traffic."""
        return {revision for revision, _ in self.state.observations().values()} == {self.state.traffic()[0]}

    def answering(self, times: int = 20) -> set[str]:
        """Releases that answer now; each question is a connection of its own, so that both gateways are asked."""
        replies = [ask(self.where.url, self.where.key) for _ in range(times)]
        assert {status for status, _ in replies} == {200}
        return {reply["release"] for _, reply in replies}


@pytest.fixture(scope="module")
def endpoint(live: Live) -> Iterator[Endpoint]:
    found = Endpoint(live)
    yield found
    found.state.close()


def test_canary_of_another_prompt_shares_the_engine(endpoint: Endpoint) -> None:
    before = endpoint.pids()
    release, spec = endpoint.variant("kind")
    with endpoint.load() as load:
        found = endpoint.roll_out(release, spec, "canary")
    assert found.status == "promoted", found.evidence
    assert set(load.statuses) == {200}
    assert endpoint.pids() == before
    assert endpoint.answering() == {release.id}


def test_ab_users_stay_with_their_release_until_a_person_decides(endpoint: Endpoint) -> None:
    release, spec = endpoint.variant("brief")
    (old,) = endpoint.answering(2)
    with endpoint.load() as load:
        test = endpoint.roll_out(release, spec, "ab")
        assert test.status == "running"
        until(lambda: len(load.releases) > 1 and endpoint.agreed())
        users = [f"person-{n}" for n in range(12)]
        first = [ask(endpoint.where.url, endpoint.where.key, user=user)[1]["release"] for user in users]
        again = [ask(endpoint.where.url, endpoint.where.key, user=user)[1]["release"] for user in users]
        assert first == again
        assert set(first) == {old, release.id}
        client.decide(endpoint.home, old)
        ended = client.wait(endpoint.home, test.id, 60)
    assert ended.status == "rolled_back"
    assert set(load.statuses) == {200}
    assert set(ended.evidence["requests"]) == {"canary", "stable"}
    assert endpoint.answering() == {old}


def test_shadow_answers_nobody_and_its_answers_are_kept(endpoint: Endpoint) -> None:
    release, spec = endpoint.variant("silent")
    (old,) = endpoint.answering(2)
    with endpoint.load() as load:
        found = endpoint.roll_out(release, spec, "shadow")
    assert (found.status, found.evidence["requests"]["canary"] >= 2) == ("held", True), found.evidence
    assert set(load.statuses) == {200}
    assert set(load.releases) == {old}
    mirrored = [row for row in latest_rows(endpoint.home.endpoint / "interactions", 500) if row["release"] == release.id]
    assert {row["variant"] for row in mirrored} == {VARIANT}
    assert all(row["answer"] for row in mirrored)


def test_blue_green_of_another_model_after_parity_and_back_without_a_start(
    endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (old,) = endpoint.answering(2)
    release, spec = endpoint.variant("green", save_model(tmp_path_factory.mktemp("green"), 1))
    with endpoint.load() as load:
        found = endpoint.roll_out(release, spec, "blue_green")
        assert found.status == "promoted", found.evidence
        assert found.evidence["parity"]["equal"] == found.evidence["parity"]["prompts"] > 0
        assert endpoint.answering() == {release.id}
        warm = endpoint.pids()
        back = client.wait(endpoint.home, client.rollback(endpoint.home), 60)
        assert endpoint.answering() == {old}
        assert endpoint.pids() == warm
    assert back.status == "promoted"
    assert set(load.statuses) == {200}


def test_rolling_over_replicas_replaces_one_after_the_other(endpoint: Endpoint) -> None:
    release, spec = endpoint.variant("wide", threads=2, replicas=2)
    with endpoint.load() as load:
        found = endpoint.roll_out(release, spec, "rolling")
        assert found.status == "promoted", found.evidence
        assert [entry["share"] for entry in found.evidence["log"]] == [0.5, 1.0]
        assert endpoint.answering() == {release.id}
    assert set(load.statuses) == {200}
    assert len([engine for engine in endpoint.state.engines_of(release.id) if engine.state == "ready"]) == 2
    rows = latest_rows(endpoint.home.endpoint / "interactions", 5000)
    assert load.acknowledged <= {row["id"] for row in rows}
