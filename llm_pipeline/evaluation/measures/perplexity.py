"""exp of the mean negative log-likelihood per token of the reference (or of a plain `text`)."""

from __future__ import annotations

from typing import Any

from llm_pipeline.evaluation import generate
from llm_pipeline.evaluation.measure import Answered, Outputs, Row

NEEDS = ("reference",)
LOWER_IS_BETTER = True
_LARGEST = 1e9
"""Of one row, so that a single strange text does not fill a plot."""


def score(row: Row, outputs: Outputs) -> float | None:
    if not outputs.reference or not outputs.reference.tokens:
        return None
    return round(min(_LARGEST, generate.perplexity([outputs.reference])), 6)


def corpus(answered: Answered) -> dict[str, Any]:
    found = [outputs.reference for _, outputs in answered if outputs.reference]
    return {"value": round(generate.perplexity(found), 6), "tokens": sum(item.tokens for item in found)}
