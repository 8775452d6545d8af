"""The demo's closing table and `demo_summary.json`: each stage's headline figure, read from what the stages published."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from rich.table import Table

from llm_pipeline.demo.sources import support_config
from llm_pipeline.store import Artifacts, Home

LIBRARIES = ("torch", "transformers", "trl", "peft", "deepspeed", "dagster", "lancedb", "daft", "mlflow", "great-expectations")

OWN_SUITES = ("facts", "facts_after", "shifted", "unanswerable")


def summarise(home: Home, seconds: Mapping[str, float], outcomes: Mapping[str, Any], peak_memory_mb: int) -> dict[str, Any]:
    """`{"figures", "seconds", "versions"}` from the artefacts that the story's steps left and the generator's ground truth."""
    return {
        "figures": {
            **_model_figures(home, outcomes),
            **_traffic_figures(outcomes),
            **_drift_figures(home, outcomes),
            **_retrieval_figures(home),
            **_truth_figures(home),
            "peak_memory_mb": peak_memory_mb,
        },
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }


def _model_figures(home: Home, outcomes: Mapping[str, Any]) -> dict[str, float]:
    def exact_match(step: str, suite: str, model: str, mode: str) -> float:
        results = home.artifacts.get("eval_report", outcomes[step]["eval_report"]).json("report.json")["results"]
        return next(float(r["em"]) for r in results if (r["suite"], r["model"], r["mode"]) == (suite, model, mode))

    first, second = "first model", "retrain after drift"
    return {
        "em_base": exact_match(first, "facts", "base", "closed"),
        "em_finetuned": exact_match(first, "facts", "candidate", "closed"),
        "em_finetuned_retrieval": exact_match(first, "facts", "candidate", "retrieval"),
        "em_shifted_stale": exact_match(second, "shifted", "champion", "closed"),
        "em_shifted_retrieval": exact_match(second, "shifted", "champion", "retrieval"),
        "em_shifted_retrained": exact_match(second, "shifted", "candidate", "closed"),
        "em_shifted_retrained_retrieval": exact_match(second, "shifted", "candidate", "retrieval"),
    }


def _traffic_figures(outcomes: Mapping[str, Any]) -> dict[str, float]:
    days = [outcome for name, outcome in outcomes.items() if name.startswith("customers ")]
    return {"requests_answered": sum(day["answered"] for day in days), "requests_failed": sum(day["failed"] for day in days)}


def _drift_figures(home: Home, outcomes: Mapping[str, Any]) -> dict[str, float]:
    from llm_pipeline.demo.run import SHIFT

    days = sorted(name.removeprefix("customers ") for name in outcomes if name.startswith("customers "))
    windows = home.lake.read("drift_report", days, ["day", "alarm", "status"]).to_pylist()
    alarmed = {row["day"] for row in windows if row["alarm"]}
    calm, shifted = days[:SHIFT], days[SHIFT:]
    return {
        "drift_false_days": sum(day in alarmed for day in calm),
        "drift_missed_days": sum(day not in alarmed for day in shifted),
        "drift_judged_calm_days": len({row["day"] for row in windows if row["day"] in calm and row["status"] != "calibrating"}),
    }


def _retrieval_figures(home: Home) -> dict[str, float]:
    report = home.artifacts.named("retrieval_report").json("report.json")
    figures = {f"retrieval_recall_at_5_{suite}": float(r["recall@5"]) for suite, r in report.items()}
    return {"retrieval_recall_at_5": float(report["facts_after"]["recall@5"]), **figures}


def _truth_figures(home: Home) -> dict[str, float]:
    from llm_pipeline.curation.support.scoring import score

    return score(support_config(home), home.root / "ground_truth", home)


def summary_table(home: Home, summary: Mapping[str, Any]) -> Table:
    """One row a stage: what it made, its headline figure, where it is."""
    figure = summary["figures"]
    made = home.artifacts.named

    def short(kind: str) -> str:
        return f"{kind} {made(kind).id[:8]}"

    table = Table(title="The life cycle", title_justify="left")
    for column in ("stage", "made", "headline", "where"):
        table.add_column(column, overflow="fold")
    rows = [
        (
            "curation",
            f"{short('corpus_snapshot')}, {short('sft_dataset')}",
            f"PII F1 {figure['pii_f1']:.3f}; duplicates found {figure['dedup_recall']:.3f}, rightly {figure['dedup_precision']:.3f};"
            f" leaks removed {figure['decontamination_recall']:.3f}",
            made("corpus_snapshot").path,
        ),
        (
            "training",
            short("candidate_model"),
            f"exact match {figure['em_base']:.2f} -> {figure['em_finetuned']:.2f}",
            made("candidate_model").path,
        ),
        (
            "evaluation",
            short("eval_report"),
            f"after the shift: stale {figure['em_shifted_stale']:.2f}, stale + retrieval {figure['em_shifted_retrieval']:.2f},"
            f" retrained {figure['em_shifted_retrained']:.2f}",
            made("eval_report").path / "report.html",
        ),
        ("retrieval", f"generation {_live(home)}", f"recall@5 {figure['retrieval_recall_at_5']:.3f}", home.indexes),
        ("serving", short("release"), f"{figure['requests_answered']} answered, {figure['requests_failed']} failed", home.endpoint),
        (
            "monitoring",
            "interactions, drift_report",
            f"false alarms on {figure['drift_false_days']} calm days, missed {figure['drift_missed_days']} shifted days",
            home.lake.root / "drift_report",
        ),
        ("governance", "data_card, model_card, audit_log", f"{summary['seconds']['total']:.0f} s of steps in all", made("model_card").path),
    ]
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    for key, recall in figure.items():
        suite = key.removeprefix("retrieval_recall_at_5_")
        if suite != key and suite not in OWN_SUITES:
            table.add_row("your source", suite, f"recall@5 {recall:.3f}", str(made("retrieval_report").path / "report.json"))
    return table


def _live(home: Home) -> str:
    return Artifacts(home.indexes).named("vector_index", "live").id[:8]


def closing_words(home: Home, skipped: list[str]) -> str:
    """How to look at what was made, and a request that the endpoint answers now."""
    from llm_pipeline.serving.supervision.client import endpoint

    live = endpoint(home)
    question = json.dumps({"model": "default", "messages": [{"role": "user", "content": _example_question(home)}]})
    lines = [
        f"{len(skipped)} steps were unchanged and skipped." if skipped else "",
        f"Report        {home.artifacts.named('eval_report').path / 'report.html'}",
        f"Figures       {home.root / 'demo_summary.json'}",
        "Dagster UI    make ui       (http://127.0.0.1:3000)",
        "MLflow UI     make mlflow   (http://127.0.0.1:5000)",
        "Stop serving  make stop",
        "Ask it        "
        + f"curl -s {live.url}/v1/chat/completions -H 'Authorization: Bearer {live.key}'"
        + f" -H 'Content-Type: application/json' -d '{question}'",
    ]
    return "\n".join(line for line in lines if line)


def _example_question(home: Home) -> str:
    from llm_pipeline.curation.support.bank import bank

    config = support_config(home)
    fact = bank(config, config.all_days[-1]).facts[0]
    return f"What is the {fact.attribute.names[0]} of the {fact.product}?"
