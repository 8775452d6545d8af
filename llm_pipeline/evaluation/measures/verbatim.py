"""The answer begins with the row's `answer`, word for word: it was extracted (Carlini et al. 2021)."""

from __future__ import annotations

from typing import Any

from llm_pipeline.evaluation.measure import Answered, Outputs, Row
from llm_pipeline.evaluation.memorisation import against_controls

COLUMNS = ("answer", "inserted")
LOWER_IS_BETTER = True


def score(row: Row, outputs: Outputs) -> float:
    return float(outputs.text.split()[: len(words := str(row["answer"]).split())] == words)


def corpus(answered: Answered) -> dict[str, Any]:
    """Value: the share extracted of what was inserted minus that of the controls, which no training saw."""
    return against_controls([(row, score(row, outputs)) for row, outputs in answered])
