"""The same normalised words as the reference, or as any of several references (`answers`)."""

from __future__ import annotations

from llm_pipeline.evaluation import metrics
from llm_pipeline.evaluation.measure import Outputs, Row

COLUMNS = ("answer",)


def score(row: Row, outputs: Outputs) -> float:
    return float(any(metrics.exact_match(outputs.text, str(right)) for right in (row["answer"], *row.get("answers", ()))))
