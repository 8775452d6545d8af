"""The last number of the answer is that of the reference: word problems answered with their working (Cobbe et al. 2021)."""

from __future__ import annotations

import re

from llm_pipeline.evaluation.measure import Outputs, Row

COLUMNS = ("answer",)
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?|-?\.\d+")


def score(row: Row, outputs: Outputs) -> float | None:
    """None for a reference without a number."""
    wanted = _last(str(row["answer"]))
    return None if wanted is None else float(_last(outputs.text) == wanted)


def _last(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
