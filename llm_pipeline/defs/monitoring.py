"""Monitoring: the endpoint's log as daily tables, and what they say about drift, quality and usage."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg

from llm_pipeline.defs.partitions import daily
from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.monitoring import drift_report as drift
from llm_pipeline.monitoring import interactions as log
from llm_pipeline.monitoring import quality, usage
from llm_pipeline.monitoring.drift import DriftRule, Vectors
from llm_pipeline.monitoring.feedback import read_opinions
from llm_pipeline.store import Home

PLOTTED_DAYS = 30
COMMON: dict[str, Any] = {
    "group_name": "monitoring",
    "partitions_def": daily,
    "backfill_policy": dg.BackfillPolicy.multi_run(1),
    "owners": ["team:serving"],
    "tags": {"stage": "monitoring"},
}


class DriftConfig(dg.Config):
    """Window size and how many calm windows must exist before anything may alarm."""

    window: int = 150
    past: int = 20


class PriceConfig(dg.Config):
    """Cost of a million tokens."""

    prompt: float = usage.Price.prompt
    completion: float = usage.Price.completion


@dg.asset(deps=["deployed_endpoint"], kinds={"lance"}, **COMMON)
def interactions(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
    """Requests, answers and what users said of one UTC day, from the gateway's segments; unusable lines are counted, never used."""
    place, day = home.open(), context.partition_key
    segments = log.read_segments(place.endpoint / "interactions")
    opinions = read_opinions(place.endpoint / "feedback")
    table = log.interactions_table(segments.interactions, day, opinions)
    version = place.lake.replace("interactions", day, table)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": table.num_rows,
            "quarantined_lines": len(segments.quarantined),
            "quarantined_by_rule": segments.counts(),
            "quarantined": dg.MetadataValue.json(list(segments.quarantined)[:20]),
            "with_feedback": sum(identity in opinions for identity in table["id"].to_pylist()),
            "feedback_unmatched": len(opinions.keys() - {item.id for item in segments.interactions}),
            "days_in_log": dg.MetadataValue.json(segments.days()),
        },
        data_version=dg.DataVersion(version),
    )


@dg.asset_check(asset="interactions", description="At most one log line in a hundred is unusable (all days together).")
def interactions_log_intact(home: HomeResource) -> dg.AssetCheckResult:
    segments = log.read_segments(home.open().endpoint / "interactions")
    bad = [entry for entry in segments.quarantined if entry["rule"] != "duplicate_id"]
    total = len(bad) + len(segments.interactions)
    return dg.AssetCheckResult(
        passed=len(bad) * 100 <= total,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"lines": total, "unusable": len(bad), "first": dg.MetadataValue.json(bad[:5])},
    )


@dg.asset(
    deps=[
        "interactions",
        dg.AssetDep("drift_report", partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)),
    ],
    kinds={"lance", "numpy"},
    **COMMON,
)
def drift_report(context: dg.AssetExecutionContext, config: DriftConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """Is what users ask still what the model was made for? One row per window; `alarm` makes the sensor retrain.

    Thresholds come from the calm windows of earlier days, hence the dependency on the day before: a backfill goes in order.
    """
    place, day, rule = home.open(), context.partition_key, DriftRule(window=config.window, past=config.past)
    report = drift.drift_day(place, day, lambda texts: embed(place, texts), rule)
    version = place.lake.replace(drift.TABLE, day, report.rows)
    history = drift.past_rows(place, day, report.reference) + [{**row, "day": day} for row in report.rows.to_pylist()]
    columns = ("window", "n", "novelty", "mmd", "novelty_z", "mmd_z", "cusum", "status")
    shown = [{name: round(v, 4) if isinstance(v := row[name], float) else v for name in columns} for row in report.rows.to_pylist()]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": report.rows.num_rows,
            "alarm": report.alarm,
            "status": report.status,
            "past_windows": report.past,
            "novelty_z_max": max((row["novelty_z"] or 0.0 for row in shown), default=0.0),
            "mmd_z_max": max((row["mmd_z"] or 0.0 for row in shown), default=0.0),
            "windows": markdown_table(shown),
            "farthest": dg.MetadataValue.json(report.farthest[:10]),
            "reference": report.reference,
            "plot": figure(drift.drift_figure(history[-PLOTTED_DAYS * 4 :], rule)),
        },
        data_version=dg.DataVersion(version),
    )


@dg.asset(deps=["interactions"], kinds={"lance"}, **COMMON)
def quality_report(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult[Any]:
    """Refusals, empty and truncated answers, guardrail hits and feedback of one day, per release."""
    from llm_pipeline.curation.support.world import REFUSAL

    place, day = home.open(), context.partition_key
    items = place.lake.read("interactions", [day]).to_pylist()
    rows = quality.quality_rows(items, REFUSAL, quality.read_feedback(place.endpoint / "feedback"))
    version = place.lake.replace(quality.TABLE, day, quality.quality_table(rows))
    history = place.lake.read(quality.TABLE, place.lake.days(quality.TABLE)[-PLOTTED_DAYS:]).to_pylist()
    rates = {
        name: sum(row[name] * row["share"] for row in rows) for name in ("empty_rate", "refusal_rate", "guardrail_rate", "retrieval_rate")
    }
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "requests": len(items),
            **rates,
            "releases": markdown_table(rows),
            "plot": figure(quality.quality_figure(history)),
        },
        data_version=dg.DataVersion(version),
    )


@dg.asset(deps=["interactions"], kinds={"lance"}, **COMMON)
def usage_report(context: dg.AssetExecutionContext, config: PriceConfig, home: HomeResource) -> dg.MaterializeResult[Any]:
    """Tokens, cost and latency of one day, per release and key."""
    place, day = home.open(), context.partition_key
    items = place.lake.read("interactions", [day]).to_pylist()
    rows = usage.usage_rows(items, usage.Price(config.prompt, config.completion))
    version = place.lake.replace(usage.TABLE, day, usage.usage_table(rows))
    cost = sum(row["cost"] for row in rows)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "requests": len(items),
            "tokens": sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows),
            "cost": cost,
            "cost_per_request": cost / len(items) if items else 0.0,
            "p50_seconds": usage.latency(items, "total", 50) or 0.0,
            "p95_seconds": usage.latency(items, "total", 95) or 0.0,
            "by_release_and_key": markdown_table(rows),
            "plot": figure(usage.usage_figure(items)),
        },
        data_version=dg.DataVersion(version),
    )


def embed(home: Home, texts: Sequence[str]) -> Vectors:
    """Embed through the cache of the home folder; the model is loaded once per process."""
    return _cache(home.root).embed(list(texts))


@lru_cache(maxsize=2)
def _cache(root: Path) -> Any:
    from llm_pipeline.retrieval.embedding import Embedder
    from llm_pipeline.retrieval.embedding_cache import EmbeddingCache

    return EmbeddingCache(root / "embeddings", Embedder())


def markdown_table(rows: Sequence[dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Rows as a table that the UI renders; an empty one says so."""
    if not rows:
        return dg.MetadataValue.md("nothing on this day")
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *[[_cell(row[name]) for name in names] for row in rows]]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _cell(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else ""
        if value is None
        else json.dumps(value)
        if isinstance(value, dict)
        else str(value)
    )


defs = dg.Definitions(assets=[interactions, drift_report, quality_report, usage_report], asset_checks=[interactions_log_intact])
