"""Two models on the same examples: the gate's verdict, differences by slice, and which examples were won and lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from llm_pipeline.evaluation.gate import judge
from llm_pipeline.evaluation.gate_policy import GatePolicy
from llm_pipeline.evaluation.paired import holm, paired_test
from llm_pipeline.evaluation.scores import metric_name, scores_of
from llm_pipeline.evaluation.slices import by_slice
from llm_pipeline.store import write_atomically

Row = Mapping[str, Any]
SMALLEST_SLICE = 10
EXAMPLES = 8


def write_comparison(out: Path, before: Sequence[Row], after: Sequence[Row], policy: GatePolicy, names: tuple[str, str]) -> dict[str, Any]:
    """Write comparison.json and comparison.html into `out` and return what the first holds."""
    from llm_pipeline.evaluation.versus_page import render_comparison

    result = compare_rows(before, after, policy, names)
    write_atomically(out / "comparison.json", json.dumps(result, indent=1, allow_nan=False))
    write_atomically(out / "comparison.html", render_comparison(result))
    return result


def compare_rows(
    before: Sequence[Row], after: Sequence[Row], policy: GatePolicy | None = None, names: tuple[str, str] = ("champion", "challenger")
) -> dict[str, Any]:
    """`{"names", "decision", "slices", "flips"}` of rows {id, metric, score, ...}; differences are second minus first.

    Unlike the gate, which refuses, this leaves out what only the first model was scored for, and says so in the decision's notes.
    """
    first, second = scores_of(before), scores_of(after)
    alone = sorted(first.keys() - second.keys())
    shared = {metric: scores for metric, scores in first.items() if metric in second}
    policy = (policy or GatePolicy()).without(alone, shared)
    decision = judge(shared, second, policy)
    decision = replace(
        decision, notes=(*decision.notes, *(f"{metric}: only {names[0]} has scores of it, not compared" for metric in alone))
    )
    theirs = {(metric_name(row), str(row["id"])): row for row in after}
    pairs: dict[str, list[dict[str, Any]]] = {metric: [] for metric in decision.metrics}
    for row in sorted(before, key=lambda row: str(row["id"])):
        metric = metric_name(row)
        if metric in pairs and (other := theirs.get((metric, str(row["id"])))) is not None:
            change = float(other["score"]) - float(row["score"])
            pairs[metric].append({**row, "before": row, "after": other, "change": change})
    lower = {metric for metric, figures in decision.metrics.items() if figures["better"] == "lower"}
    return {
        "names": list(names),
        "decision": decision.json(),
        "slices": _slices(pairs, policy),
        "flips": {metric: _flips(rows, -1 if metric in lower else 1) for metric, rows in pairs.items()},
    }


def _slices(pairs: Mapping[str, Sequence[Row]], policy: GatePolicy) -> list[dict[str, Any]]:
    """Differences by slice; the p-values are corrected for the number of slices (Holm), the intervals are not."""
    lines = []
    for metric, rows in pairs.items():
        for (name, value), part in by_slice(rows).items():
            if len(part) >= SMALLEST_SLICE:
                lines.append({"metric": metric, "slice": name, "value": value} | _difference(part, policy))
    for line, p in zip(lines, holm([line["p_value"] for line in lines]), strict=True):
        line["adjusted_p"] = p
    return lines


def _difference(rows: Sequence[Row], policy: GatePolicy) -> dict[str, Any]:
    before, after = (next(iter(scores_of(row[side] for row in rows).values())) for side in ("before", "after"))
    test = paired_test(list(before.values()), [after[example] for example in before])
    return {
        "n": test.n,
        "champion": sum(before.values()) / test.n,
        "challenger": sum(after.values()) / test.n,
        "difference": test.difference,
        "interval": [bound if isfinite(bound) else None for bound in test.interval(policy.alpha)],
        "p_value": min(1.0, 2 * min(test.above(0), test.below(0))),
    }


def _flips(rows: Sequence[Row], sign: int) -> dict[str, Any]:
    won = sorted((row for row in rows if sign * row["change"] > 0), key=lambda row: (-sign * row["change"], str(row["id"])))
    lost = sorted((row for row in rows if sign * row["change"] < 0), key=lambda row: (sign * row["change"], str(row["id"])))
    return {
        "won": len(won),
        "lost": len(lost),
        "same": len(rows) - len(won) - len(lost),
        "examples_won": [_example(row) for row in won[:EXAMPLES]],
        "examples_lost": [_example(row) for row in lost[:EXAMPLES]],
    }


def _example(row: Row) -> dict[str, Any]:
    first, second = row["before"], row["after"]
    return {
        "id": str(row["id"]),
        "question": row.get("question"),
        "reference": row.get("reference"),
        "scores": [float(first["score"]), float(second["score"])],
        "answers": [first.get("answer"), second.get("answer")],
    }
