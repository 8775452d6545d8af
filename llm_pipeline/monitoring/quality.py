"""How the answers of a day were, per release, as far as the log alone can tell: no reference answers are needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llm_pipeline.monitoring.feedback import read_opinions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "quality_report"
_COLUMNS: list[tuple[str, Any]] = [
    ("release", pa.string()),
    ("requests", pa.int64()),
    ("share", pa.float64()),
    ("empty_rate", pa.float64()),
    ("refusal_rate", pa.float64()),
    ("truncated_rate", pa.float64()),
    ("guardrail_rate", pa.float64()),
    ("retrieval_rate", pa.float64()),
    ("feedback", pa.int64()),
    ("feedback_good_rate", pa.float64()),
    ("finish_reasons", pa.string()),
    ("guardrails", pa.string()),
]
SCHEMA = pa.schema(_COLUMNS)


def quality_rows(
    interactions: Sequence[Mapping[str, Any]], refusal: str, feedback: Mapping[str, bool] | None = None
) -> list[dict[str, Any]]:
    """One row per release, most requests first, of rows of the table `interactions`.

    `refusal` is the text with which a model declines. `feedback` maps interaction ids to whether the user was content.
    """
    judged = feedback or {}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in interactions:
        groups.setdefault(str(item["release"]), []).append(item)
    rows = [_release_row(release, items, len(interactions), refusal, judged) for release, items in groups.items()]
    return sorted(rows, key=lambda row: (-row["requests"], row["release"]))


def quality_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)


def quality_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The rates over days (rows of `quality_report`), weighted over releases."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6))
    axes = figure.subplots()
    days = sorted({row["day"] for row in rows})
    for name in ("empty_rate", "refusal_rate", "truncated_rate", "guardrail_rate", "retrieval_rate"):
        values = []
        for day in days:
            of_day = [row for row in rows if row["day"] == day]
            values.append(sum(row[name] * row["requests"] for row in of_day) / max(sum(row["requests"] for row in of_day), 1))
        axes.plot(range(len(days)), values, marker="o", markersize=3, label=name.removesuffix("_rate"))
    axes.set_xticks(range(len(days)), [day[5:] for day in days], rotation=60, fontsize=7)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of requests")
    axes.legend(fontsize=7)
    return figure


def _release_row(
    release: str, items: Sequence[Mapping[str, Any]], total: int, refusal: str, feedback: Mapping[str, bool]
) -> dict[str, Any]:
    n = len(items)
    reasons = Counter(str(item["finish_reason"]) for item in items)
    fired = [json.loads(item["guardrails"]) for item in items]
    rules = Counter(rule for hit in fired for rule in hit)
    verdicts = [feedback[item["id"]] for item in items if item["id"] in feedback]
    start = " ".join(refusal.split()).rstrip(".").lower()
    return {
        "release": release,
        "requests": n,
        "share": n / total,
        "empty_rate": sum(not item["answer"].strip() for item in items) / n,
        "refusal_rate": sum(" ".join(item["answer"].split()).lower().startswith(start) for item in items) / n,
        "truncated_rate": reasons["length"] / n,
        "guardrail_rate": sum(bool(hit) for hit in fired) / n,
        "retrieval_rate": sum(bool(json.loads(item["passages"])) for item in items) / n,
        "feedback": len(verdicts),
        "feedback_good_rate": sum(verdicts) / len(verdicts) if verdicts else None,
        "finish_reasons": json.dumps(dict(sorted(reasons.items()))),
        "guardrails": json.dumps(dict(sorted(rules.items()))),
    }


def read_feedback(folder: Path) -> dict[str, bool]:
    """Interaction id -> whether the user was content, of the answers that somebody rated as good or bad."""
    return {identity: said.rating > 0 for identity, said in read_opinions(folder).items() if said.rating}
