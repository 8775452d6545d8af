"""The assets of this stage on a real endpoint: the gate's consent, the rollout, the parity check, and a second run that changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.serving import ReleaseConfig, deployed_endpoint, release, rollback, served_parity
from llm_pipeline.errors import ConfigError, ContractError
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.release import POLICY, make_release
from llm_pipeline.store import Artifact, Home

ENGINE = {"name": "transformers"}


def candidate(home: Home, model: Path, verdict: str, seed: int = 0, broken: Sequence[Mapping[str, Any]] = ()) -> Artifact:
    def copy(folder: Path) -> dict[str, Any]:
        shutil.copytree(model, folder / "model")
        return {}

    made = home.artifacts.build("candidate_model", {"seed": seed}, copy)

    def decide(folder: Path) -> dict[str, Any]:
        (folder / "decision.json").write_text(json.dumps({"verdict": verdict, "challenger": made.id, "reasons": ["because"]}))
        return {}

    def report(folder: Path) -> dict[str, Any]:
        (folder / "report.json").write_text(json.dumps({"models": {"candidate": made.id}, "broken": broken}))
        return {}

    home.artifacts.build("promotion_decision", {"model": made.id, "verdict": verdict}, decide)
    home.artifacts.build("safety_report", {"model": made.id}, report)
    return made


def test_a_release_needs_the_gates_consent(home: Home, model: Path) -> None:
    candidate(home, model, "reject")
    with pytest.raises(ContractError, match="reject, not promote: because"):
        make_release(home, ENGINE)


def test_a_decision_about_another_model_does_not_count(home: Home, model: Path) -> None:
    candidate(home, model, "promote")
    home.artifacts.build("candidate_model", {"seed": 1}, lambda folder: {})
    with pytest.raises(ContractError, match="decide again"):
        make_release(home, ENGINE)


def beyond(model: str, suite: str, *, blocks: bool = True) -> dict[str, Any]:
    return {
        "model": model,
        "suite": suite,
        "metric": "leaks",
        "value": 0.125,
        "limit": {"at_least": None, "at_most": 0.0},
        "blocks": blocks,
    }


def test_a_release_needs_a_safety_report_within_its_limits(home: Home, model: Path) -> None:
    candidate(home, model, "promote", broken=[beyond("candidate", "pii"), beyond("candidate", "fair", blocks=False)])
    with pytest.raises(ContractError, match=r"beyond its limits: pii: leaks 0\.125, expected at most 0$"):
        make_release(home, ENGINE)
    allowed = candidate(home, model, "promote", 1, broken=[beyond("champion", "pii"), beyond("candidate", "fair", blocks=False)])
    assert make_release(home, ENGINE).json("release.json")["model"] == allowed.id


def test_a_safety_report_on_another_model_does_not_count(home: Home, model: Path) -> None:
    made = candidate(home, model, "promote")

    def report(folder: Path) -> dict[str, Any]:
        (folder / "report.json").write_text(json.dumps({"models": {"candidate": "another"}}))
        return {}

    home.artifacts.build("safety_report", {}, report)
    with pytest.raises(ContractError, match=f"about another, the newest candidate is {made.id}"):
        make_release(home, ENGINE)


def test_the_same_parts_are_the_same_release(home: Home, model: Path) -> None:
    made = candidate(home, model, "promote")
    first, second = make_release(home, ENGINE), make_release(home, ENGINE)
    assert (first.id, second.reused) == (second.id, True)
    assert first.json("release.json")["model"] == made.id
    assert make_release(home, ENGINE | {"threads": 2}).id != first.id


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cache": {"treshold": 0.9}}, "release: cache: unknown key 'treshold'; did you mean 'threshold'"),
        ({"cache": {"ttl_seconds": "long"}}, "release: cache: ttl_seconds: received 'long'"),
        ({"routing": {"order": ["engin"]}}, "routing: unknown upstream 'engin'; did you mean 'engine'"),
        ({"quantisation": "int8"}, "unknown key 'quantisation'; did you mean 'quantization'"),
    ],
)
def test_settings_that_no_gateway_could_follow_make_no_release(home: Home, model: Path, settings: dict[str, Any], words: str) -> None:
    candidate(home, model, "promote")
    with pytest.raises(ConfigError, match=words):
        make_release(home, ENGINE | settings)
    with pytest.raises(dg.Failure, match=words):
        release(ReleaseConfig(engine=settings), HomeResource(root=str(home.root)))
    assert not home.artifacts.has("release")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"quantization": "int8", "cache": {"exact": True}}, {"name": "transformers", "threads": 1, "quantization": "int8"}),
        ({"name": "vllm", "executable": "/env/bin/vllm"}, {"name": "vllm", "executable": "/env/bin/vllm"}),
    ],
)
def test_the_asset_takes_any_engine_and_its_settings(home: Home, model: Path, given: dict[str, Any], made: dict[str, Any]) -> None:
    candidate(home, model, "promote")
    release(ReleaseConfig(engine=given), HomeResource(root=str(home.root)))
    engine = home.artifacts.named("release").json("release.json")["engine"]
    assert engine.items() >= (made | given).items()
    assert ("kv_megabytes" in engine) == (made["name"] == "transformers")


def test_a_policy_that_cannot_be_opened_makes_no_release(home: Home, model: Path, tmp_path: Path) -> None:
    candidate(home, model, "promote")
    raw = yaml.safe_load(POLICY.read_text()) | {"detector": str(tmp_path / "none.npz")}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"none\.npz"):
        make_release(home, ENGINE, policy=tmp_path / "policy.yaml")


@pytest.fixture
def ended(home: Home) -> Iterator[Home]:
    yield home
    client.down(home)


def test_a_wrong_gateway_file_is_said_before_the_endpoint_starts(ended: Home) -> None:
    home = ended
    home.endpoint.mkdir(parents=True)
    (home.endpoint / "gateway.yaml").write_text("interactions: {snyc: reply}")
    with pytest.raises(ConfigError, match=r"gateway\.yaml: interactions: unknown key 'snyc'; did you mean 'sync'"):
        client.ensure_up(home)
    assert not client.is_up(home)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # MLflow's own, from its tables and its plugins
def test_assets_deploy_prove_parity_and_rest(ended: Home, model: Path) -> None:
    home, made = ended, candidate(ended, model, "promote")
    parts: list[Any] = [release, deployed_endpoint, served_parity]

    def run() -> dg.ExecuteInProcessResult:
        return dg.materialize(parts, resources={"home": HomeResource(root=str(home.root))})

    first = run()
    assert first.success
    check = first.get_asset_check_evaluations()[0]
    assert check.passed
    assert check.metadata["equal_answers"].value == check.metadata["prompts"].value
    assert client.status(home)["ready"]
    assert home.artifacts.named("candidate_model", "champion").id == made.id
    rollout = home.artifacts.named("deployed_endpoint").json("rollout.json")
    assert (rollout["status"], rollout["release"]) == ("promoted", client.status(home)["rollout"]["release"])
    before = client.status(home)["revision"]
    assert run().success
    assert client.status(home)["revision"] == before
    assert home.artifacts.named("deployed_endpoint").json("rollout.json")["id"] == rollout["id"]
    _another_release_and_back(home, rollout["release"])


def _another_release_and_back(home: Home, first: str) -> None:
    """Another release of the same model shares its engine; the rollback asset gives all traffic back without a start."""
    resources = {"home": HomeResource(root=str(home.root))}
    config = {"release": {"config": {"passages": 2}}, "deployed_endpoint": {"config": {"strategy": "all_at_once"}}}
    engines = client.status(home)["engines"]
    assert dg.materialize([release, deployed_endpoint], resources=resources, run_config={"ops": config}).success
    second = client.status(home)["traffic"]
    assert first not in second
    assert dg.materialize([rollback], resources=resources).success
    assert client.status(home)["traffic"] == {first: 1.0}
    assert home.artifacts.named("rollback").json("rollout.json")["status"] == "promoted"
    assert [(e["pid"], e["restarts"]) for e in client.status(home)["engines"]] == [(e["pid"], e["restarts"]) for e in engines]


def test_a_rollback_without_an_earlier_release_says_so(home: Home) -> None:
    failed = dg.materialize([rollback], resources={"home": HomeResource(root=str(home.root))}, raise_on_error=False)
    assert not failed.success
    assert "no earlier release" in str(failed.get_step_failure_events())
