"""Every word and number of an answer stands in one passage of the row's `context`; a refusal says nothing."""

from __future__ import annotations

from llm_pipeline.evaluation import metrics
from llm_pipeline.evaluation.measure import Outputs, Row

COLUMNS = ("context",)


def score(row: Row, outputs: Outputs) -> float | None:
    return None if metrics.is_refusal(outputs.text) else float(metrics.is_grounded(outputs.text, row["context"]))
