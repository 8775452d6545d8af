"""What a perturbed question costs: exact match of the question as it stands minus that of its variant."""

from __future__ import annotations

from llm_pipeline.evaluation.measure import Outputs, Row
from llm_pipeline.evaluation.measures import exact_match

COLUMNS = ("answer",)
LOWER_IS_BETTER = True


def score_pair(row: Row, outputs: Outputs, other: Row, its_outputs: Outputs) -> float:
    return exact_match.score(row, outputs) - exact_match.score(other, its_outputs)
