"""Smaller models as assets, each measured against the candidate; and the check that the candidate is the model that was trained."""

from typing import Any

import dagster as dg

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.tables import made, records

COMMON: dict[str, Any] = {"group_name": "training", "owners": ["team:ml"]}


class ReportConfig(dg.Config):
    """How many questions of the primary suite every model is asked."""

    questions: int = 100


@dg.asset(**COMMON, kinds={"pytorch"}, tags={"cost": "low"}, deps=["candidate_model"])
def quantized_model(home: HomeResource) -> dg.MaterializeResult[Any]:
    """The candidate with its linear layers in 8 bits (LLM.int8) and in 4 bits (NormalFloat), by bitsandbytes; each loads like any model."""
    from llm_pipeline.training.quantize import make_quantized

    place = home.open()
    artifact = make_quantized(place, place.artifacts.named("candidate_model"))
    return made("quantized_model", artifact, dict(artifact.info))


@dg.asset(
    **COMMON,
    kinds={"pytorch", "json"},
    tags={"cost": "medium"},
    deps=["quantized_model", "distilled_checkpoint", "candidate_model", "evaluation_suites"],
    pool="evaluation",
)
def compression_report(context: dg.AssetExecutionContext, home: HomeResource, config: ReportConfig) -> dg.MaterializeResult[Any]:
    """Size, speed and quality of quantised and distilled models on the candidate's questions, and what the student is worth as a draft."""
    from llm_pipeline.training.quantize_build import build_report, panels

    artifact = build_report(home.open(), config.questions, context.log.info)
    report = artifact.json("report.json")
    metadata: dict[str, Any] = {
        "models": records([_words(model) for model in report["models"]]),
        "plot": figure(panels(report)),
        "suite": report["suite"],
        "questions": report["questions"],
    }
    if report["draft"]:
        metadata["draft"] = records([report["draft"]])
    return made("compression_report", artifact, metadata)


def _words(model: dict[str, Any]) -> dict[str, Any]:
    """Intervals as text, since a table's cells are plain."""
    return {
        key: f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"
        if isinstance(value, dict)
        else value
        if value is not None
        else ""
        for key, value in model.items()
    }


@dg.asset_check(
    asset=compression_report,
    description="No smaller model surely loses more than 3 points of exact match (its whole 90% interval lies below); only a warning.",
)
def smaller_models_keep_quality(home: HomeResource) -> dg.AssetCheckResult:
    report = home.open().artifacts.named("compression_report").json("report.json")
    changes = {model["name"]: (model["exact_match_change"] or {}).get("mean", 0.0) for model in report["models"][1:]}
    return dg.AssetCheckResult(
        passed=not report["lost"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "lost": ", ".join(report["lost"]) or "none",
            "margin": float(report["margin"]),
            "changes": dg.MetadataValue.json(changes),
        },
    )


@dg.asset_check(
    asset="candidate_model",
    blocking=True,
    description="Base + adapter as trained, merged, and behind the engine: near equal log-probabilities on fixed prompts.",
)
def candidate_parity(home: HomeResource) -> dg.AssetCheckResult:
    from llm_pipeline.training.parity import LARGEST_TOLERANCE, MEAN_TOLERANCE, compare_ways

    place = home.open()
    candidate = place.artifacts.named("candidate_model")
    kind = next(key for key in candidate.inputs if key.endswith("_checkpoint"))
    checkpoint = place.artifacts.get(kind, candidate.inputs[kind])
    base = next(key for key in ("base_model", "candidate_model") if key in checkpoint.inputs)
    found = compare_ways(place.artifacts.get(base, checkpoint.inputs[base]).file("model"), checkpoint.path, candidate.file("model"))
    return dg.AssetCheckResult(
        passed=all(difference.holds for difference in found),
        metadata={
            "ways": records([vars(difference) for difference in found]),
            "mean_tolerance": MEAN_TOLERANCE,
            "largest_tolerance": LARGEST_TOLERANCE,
        },
    )


defs = dg.Definitions(assets=[quantized_model, compression_report], asset_checks=[smaller_models_keep_quality, candidate_parity])
