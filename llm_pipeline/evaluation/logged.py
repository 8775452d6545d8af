"""What MLflow is told about an evaluation: the candidate's figures, the pages and the verdict, on the run that trained it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pipeline.store import Artifact, Home
from llm_pipeline.training.tracking import client

FIGURES = ("em", "em_low", "em_high", "rouge_l", "refusal", "groundedness", "finished", "perplexity")


def log_report(home: Home, report: Artifact) -> str:
    """Log the figures of the candidate in `report` and its page, once; the run's id, empty when the candidate has no run here."""
    content = report.json("report.json")
    results = [r for r in content["results"] if r["model"] == "candidate"]
    figures = {f"eval/{r['suite']}/{r['mode']}/{name}": float(r[name]) for r in results for name in FIGURES if r.get(name) is not None}
    return _log(home, report, content["models"]["candidate"], {}, figures)


def log_decision(home: Home, decision: Artifact) -> str:
    """Log the gate's verdict as a tag, its differences as metrics and its pages; the run's id, empty when there is none."""
    record = decision.json("decision.json")
    differences = {f"gate/{name}": float(m["difference"]) for name, m in record["metrics"].items() if "difference" in m}
    tags = {"verdict": record["verdict"], "champion": record["champion"] or "none"}
    return _log(home, decision, record["challenger"], tags, differences)


def _log(home: Home, made: Artifact, candidate: str, tags: Mapping[str, str], figures: Mapping[str, float]) -> str:
    run_id = str(home.artifacts.get("candidate_model", candidate).info.get("mlflow_run_id") or "")
    run: Any = _run(home, run_id) if run_id else None
    if run is None:
        return ""
    mlflow = client(home.mlflow_uri)
    if run.data.tags.get(made.kind) != made.id:
        for name, value in figures.items():
            mlflow.log_metric(run_id, name, value)
        for path in sorted(path for pattern in ("*.html", "*.json") for path in made.path.glob(pattern) if path.name != "manifest.json"):
            mlflow.log_artifact(run_id, str(path), made.kind)
        for name, text in {**tags, made.kind: made.id}.items():
            mlflow.set_tag(run_id, name, text)
    return run_id


def _run(home: Home, run_id: str) -> Any:
    """The run, or None when this home's MLflow does not know it: the model came from elsewhere."""
    mlflow = client(home.mlflow_uri)
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
