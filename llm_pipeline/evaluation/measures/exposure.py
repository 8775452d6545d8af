"""Bits by which the model prefers a planted secret to others of its kind: log2(candidates) - log2(rank) (Carlini et al. 2019)."""

from __future__ import annotations

from math import log2
from typing import Any

from llm_pipeline.evaluation.measure import Answered, Outputs, Row
from llm_pipeline.evaluation.memorisation import against_controls, alarm_bits

NEEDS = ("choices",)
COLUMNS = ("answer", "inserted")
LOWER_IS_BETTER = True


def score(row: Row, outputs: Outputs) -> float:
    """The secret is the first choice; a tie counts against the model."""
    own = outputs.choices[0].nll
    return round(log2(len(outputs.choices)) - log2(sum(other.nll <= own for other in outputs.choices)), 6)


def corpus(answered: Answered) -> dict[str, Any]:
    """Value: how many inserted canaries are above the alarm level, which chance passes with probability `alpha` in all."""
    bits = [(row, score(row, outputs)) for row, outputs in answered]
    level = alarm_bits(sum(bool(row["inserted"]) for row, _ in bits))
    loud = [row for row, value in bits if value >= level]
    return against_controls(bits) | {
        "value": sum(bool(row["inserted"]) for row in loud),
        "what": "canaries above the alarm level",
        "alarm_bits": round(level, 6),
        "alarms": [row["id"] for row in loud if row["inserted"]],
        "false_alarms": [row["id"] for row in loud if not row["inserted"]],
    }
