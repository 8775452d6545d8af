"""The model card of a candidate: what made it, how it was measured, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_pipeline.governance.cards import Card, Section, flatten, mapping_rows
from llm_pipeline.store import Artifact, Home

KIND = "model_card"


def build_model_card(home: Home) -> Artifact:
    """The card of the newest candidate model, as `model_card.md` and `model_card.html`."""
    candidate = home.artifacts.named("candidate_model")
    report = home.artifacts.named("eval_report") if home.artifacts.has("eval_report") else None
    decision = home.artifacts.named("promotion_decision") if home.artifacts.has("promotion_decision") else None

    def make(folder: Path) -> dict[str, Any]:
        card = model_card(candidate, report, decision)
        card.write(folder, KIND)
        return {"model": candidate.id, "sections": len(card.sections)}

    inputs = {"model": candidate.id, "eval_report": report.id if report else None, "promotion_decision": decision.id if decision else None}
    return home.artifacts.build(KIND, inputs, make)


def model_card(candidate: Artifact, report: Artifact | None, decision: Artifact | None) -> Card:
    made = flatten(dict(candidate.inputs)) | {f"info.{name}": value for name, value in flatten(dict(candidate.info)).items()}
    sections = [
        Section("What it is", [f"Candidate model {candidate.id}: a standalone model folder in safetensors, made by this pipeline."]),
        Section(
            "What decided it", ["Recipe, data versions, seed and library versions as they were hashed into its id."], mapping_rows(made)
        ),
    ]
    if report is None:
        sections.append(Section("Measured", ["It has not been evaluated."]))
    else:
        sections.append(Section("Measured", [f"Evaluation report {report.id}."], mapping_rows(_metrics(report), "metric", "value")))
    if decision is not None:
        sections.append(Section("Decision", rows=mapping_rows(_decision(decision), "item", "value")))
    sections.append(
        Section(
            "Limits",
            [
                "It answers in the domain and language of its training corpus; it does not know what changed after the last day of that.",
                "Without retrieval it answers from memory and can be wrong without saying so: use it with the guardrails of its release.",
                "Its figures hold for the evaluation suites named in the report, whose questions it has not seen, and for no other use.",
            ],
        )
    )
    return Card("Model card", sections)


def _metrics(report: Artifact) -> dict[str, Any]:
    content = report.json("report.json")
    numbers = (
        {name: value for name, value in flatten(content).items() if isinstance(value, int | float)} if isinstance(content, Mapping) else {}
    )
    return dict(list(numbers.items())[:200])


def _decision(decision: Artifact) -> dict[str, Any]:
    content = decision.json("decision.json")
    return {name: content[name] for name in ("verdict", "champion", "challenger", "reasons") if name in content}
