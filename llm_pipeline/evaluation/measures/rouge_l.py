"""Longest common subsequence of words with the reference, F-measure (Lin 2004)."""

from __future__ import annotations

from llm_pipeline.evaluation import metrics
from llm_pipeline.evaluation.measure import Outputs, Row

COLUMNS = ("answer",)


def score(row: Row, outputs: Outputs) -> float:
    return round(metrics.rouge_l(outputs.text, str(row["answer"])), 6)
