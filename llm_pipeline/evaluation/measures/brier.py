"""Squared distance of the choices' probabilities (log-likelihoods through a softmax) to the truth, 0 to 2 (Brier 1950)."""

from __future__ import annotations

from llm_pipeline.evaluation.measure import Outputs, Row
from llm_pipeline.evaluation.probability import probabilities

NEEDS = ("choices",)
COLUMNS = ("choices", "answer")
LOWER_IS_BETTER = True


def score(row: Row, outputs: Outputs) -> float:
    truth = [choice == row["answer"] for choice in row["choices"]]
    return round(sum((p - right) ** 2 for p, right in zip(probabilities(outputs.choices), truth, strict=True)), 6)
