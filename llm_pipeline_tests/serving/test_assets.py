"""The assets of this stage on a real endpoint: the gate's consent, the rollout, the parity check, and a second run that changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.serving import deployed_endpoint, release, rollback, served_parity
from llm_pipeline.errors import ContractError
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.release import make_release
from llm_pipeline.store import Artifact, Home

ENGINE = {"name": "transformers"}


def candidate(home: Home, model: Path, verdict: str, seed: int = 0) -> Artifact:
    def copy(folder: Path) -> dict[str, Any]:
        shutil.copytree(model, folder / "model")
        return {}

    made = home.artifacts.build("candidate_model", {"seed": seed}, copy)

    def decide(folder: Path) -> dict[str, Any]:
        (folder / "decision.json").write_text(json.dumps({"verdict": verdict, "challenger": made.id, "reasons": ["because"]}))
        return {}

    home.artifacts.build("promotion_decision", {"model": made.id, "verdict": verdict}, decide)
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


def test_the_same_parts_are_the_same_release(home: Home, model: Path) -> None:
    made = candidate(home, model, "promote")
    first, second = make_release(home, ENGINE), make_release(home, ENGINE)
    assert (first.id, second.reused) == (second.id, True)
    assert first.json("release.json")["model"] == made.id
    assert make_release(home, ENGINE | {"threads": 2}).id != first.id


@pytest.fixture
def ended(home: Home) -> Iterator[Home]:
    yield home
    client.down(home)


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
