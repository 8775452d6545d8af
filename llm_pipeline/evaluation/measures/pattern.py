"""The whole answer has the form of the row's `pattern` (a regular expression)."""

from __future__ import annotations

import re

from llm_pipeline.evaluation.measure import Outputs, Row

COLUMNS = ("pattern",)


def score(row: Row, outputs: Outputs) -> float:
    return float(re.fullmatch(row["pattern"], outputs.text) is not None)
