"""The report on everything that is smaller than the candidate: quantised, distilled, and as a draft for speculative decoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.store import Artifact, Home, write_atomically
from llm_pipeline.training.draft import speculate
from llm_pipeline.training.quantize_report import Question, Say, compare_models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN = 0.03
"""How much exact match a smaller model may lose, as a share of the questions: what the gate's simulations call a regression."""


def build_report(home: Home, limit: int = 100, say: Say = lambda _: None) -> Artifact:
    """The `compression_report` artefact: `report.json` with every model measured, and what the distilled student is worth as a draft."""
    quantised = home.artifacts.named("quantized_model")
    candidate = home.artifacts.get("candidate_model", quantised.inputs["candidate_model"])
    student = _student(home, candidate)
    suite, questions = _questions(home, limit)
    models = {"candidate": candidate.file("model"), "int8": quantised.file("int8"), "int4": quantised.file("int4")}
    if student is not None:
        models["distilled"] = student.file("model")
    inputs = {
        "quantized_model": quantised.id,
        "distilled_checkpoint": student.id if student else None,
        "suite": suite,
        "questions": [vars(question) for question in questions],
    }

    def make(folder: Path) -> dict[str, Any]:
        measured = compare_models(models, questions, say)
        draft = speculate(models["candidate"], models["distilled"], [q.question for q in questions[:24]]) if student else None
        report = {
            "suite": suite,
            "questions": len(questions),
            "margin": MARGIN,
            "models": [model.json() for model in measured],
            "draft": draft.row() if draft else None,
            "lost": [model.name for model in measured if model.loses(MARGIN)],
        }
        write_atomically(folder / "report.json", json.dumps(report, indent=1))
        return {"questions": len(questions), "lost": report["lost"]}

    return home.artifacts.build("compression_report", inputs, make)


def _student(home: Home, candidate: Artifact) -> Artifact | None:
    """The newest distilled checkpoint, if this candidate was its teacher."""
    if not home.artifacts.has("distilled_checkpoint"):
        return None
    found = home.artifacts.named("distilled_checkpoint")
    taught = found.inputs.get("candidate_model") == candidate.id
    return found if taught and (found.path / "model" / "config.json").is_file() else None


def _questions(home: Home, limit: int) -> tuple[str, list[Question]]:
    """A sample of the suite of facts that decides about promotions."""
    from llm_pipeline.evaluation.build import snapshot_day
    from llm_pipeline.evaluation.suites import load_suites, primary_suite

    suites = load_suites(home.artifacts.named("evaluation_suites"))
    name = primary_suite(suites, "", snapshot_day(home))
    return name, [Question(str(row["question"]), str(row["answer"])) for row in suites[name].sample(limit).rows]


def panels(report: dict[str, Any]) -> Figure:
    """Size, speed and exact match of every model, side by side."""
    from matplotlib.figure import Figure

    models = report["models"]
    names = [model["name"] for model in models]
    fig = Figure(figsize=(9, 0.9 + 0.35 * len(models)))
    axes = fig.subplots(1, 3, sharey=True)
    for axis, (key, label) in zip(
        axes,
        {"disk_megabytes": "MB on disk", "tokens_per_second": "tokens/s, one request", "exact_match": "exact match"}.items(),
        strict=True,
    ):
        axis.barh(names, [model[key] or 0.0 for model in models], color=["#8a8f98", *["#2f7ed8"] * (len(models) - 1)])
        axis.set_xlabel(label)
    axes[0].invert_yaxis()
    return fig
