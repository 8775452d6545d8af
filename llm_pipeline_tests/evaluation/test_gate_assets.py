"""What the decision leaves behind: files of the comparison, metadata for the UI, and figures on the candidate's MLflow run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from llm_pipeline.defs import evaluation
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.evaluation.build import build_decision
from llm_pipeline.evaluation.logged import log_decision, log_report
from llm_pipeline.store import Artifact, Home, write_jsonl
from llm_pipeline.training.tracking import Tracker, client


def answers(model: str, right: int) -> list[dict[str, Any]]:
    """120 questions with and without passages, of which a model knows the first `right`; 40 that it must refuse."""

    def row(suite: str, mode: str, i: int, **scored: Any) -> dict[str, Any]:
        texts = {"question": f"Question {i}?", "reference": f"${i}", "answer": f"{model} says {i}", "kind": "odd" if i % 2 else "even"}
        return {"model": model, "suite": suite, "mode": mode, "id": f"q{i}", **texts, **scored}

    facts = [row("facts", mode, i, em=mode == "retrieval" or i < right) for mode in ("closed", "retrieval") for i in range(120)]
    return facts + [row("unanswerable", "retrieval", i, refused=True) for i in range(40)]


def leave_report(home: Home, champion: int | None, candidate: int, run_id: str) -> Artifact:
    models: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for name, right in (("champion", champion), ("candidate", candidate)):
        if right is not None:
            info = {"mlflow_run_id": run_id}
            models[name] = home.artifacts.build("candidate_model", {"right": right}, lambda folder, info=info: info).id  # type: ignore[misc]
            rows += answers(name, right)
    figures = {"suite": "facts", "model": "candidate", "mode": "closed", "em": candidate / 120, "groundedness": None}
    report = {"primary": "facts", "kinds": {"facts": "fact", "unanswerable": "refusal"}, "models": models, "results": [figures]}

    def make(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / "answers.jsonl", rows)
        (folder / "report.json").write_text(json.dumps(report), "utf-8")
        (folder / "report.html").write_text("<p>", "utf-8")
        return {}

    return home.artifacts.build("eval_report", {"models": models}, make)


def test_a_compared_decision_holds_slices_flips_and_a_page(tmp_path: Path) -> None:
    home = Home(tmp_path)
    leave_report(home, 60, 100, "")
    with dg.instance_for_test() as instance:
        resources = {"home": HomeResource(root=str(home.root))}
        ran = dg.materialize([evaluation.promotion_decision], instance=instance, resources=resources)
        [made] = ran.asset_materializations_for_node("promotion_decision")
    metadata = made.metadata
    assert metadata["verdict"].value == "promote"
    assert {"plot", "slices", "report", "gate", "notes", "measured"} <= set(metadata)
    assert "| facts/closed/em | primary | 120 | 0.500 | 0.833 | 0.333 |" in str(metadata["gate"].value)
    assert "data:image/png;base64," in str(metadata["plot"].value)
    decision = home.artifacts.named("promotion_decision")
    comparison = decision.json("comparison.json")
    record = decision.json("decision.json")
    assert comparison["decision"]["metrics"] == record["metrics"]
    assert comparison["flips"]["facts/closed/em"]["won"] == 40
    assert {(s["slice"], s["value"]) for s in comparison["slices"]} == {("kind", "even"), ("kind", "odd")}
    assert "candidate says 60" in decision.file("comparison.html").read_text("utf-8")


def test_a_first_model_is_compared_with_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    leave_report(home, None, 100, "")
    with dg.instance_for_test() as instance:
        ran = dg.materialize([evaluation.promotion_decision], instance=instance, resources={"home": HomeResource(root=str(home.root))})
        [made] = ran.asset_materializations_for_node("promotion_decision")
    assert made.metadata["verdict"].value == "promote"
    assert "plot" not in made.metadata
    assert not (home.artifacts.named("promotion_decision").path / "comparison.html").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ..noload.. loader strategy")
def test_mlflow_hears_of_report_and_verdict_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tracker = Tracker(home.mlflow_uri, tmp_path / "note", {"rank": 8}, {})
    run_id = tracker.finish({"steps": 3, "loss": 0.5}, _empty(tmp_path / "files"))
    report = leave_report(home, 60, 100, run_id)
    decision, _ = build_decision(home)
    for _ in range(2):
        assert log_report(home, report) == log_decision(home, decision) == run_id
    mlflow = client(home.mlflow_uri)
    run = mlflow.get_run(run_id)
    assert run.data.metrics["eval/facts/closed/em"] == pytest.approx(100 / 120)
    assert "eval/facts/closed/groundedness" not in run.data.metrics
    assert run.data.metrics["gate/facts/closed/em"] == pytest.approx(40 / 120)
    assert len(mlflow.get_metric_history(run_id, "gate/facts/closed/em")) == 1
    assert run.data.tags["verdict"] == "promote"
    logged = {file.path for kind in ("eval_report", "promotion_decision") for file in mlflow.list_artifacts(run_id, kind)}
    assert {"eval_report/report.html", "promotion_decision/comparison.html", "promotion_decision/decision.json"} <= logged
    gone = leave_report(Home(tmp_path / "other"), 60, 100, "0" * 32)
    assert log_report(Home(tmp_path / "other"), gone) == "", "a model from elsewhere has no run here"


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder
