"""chrF of the whole corpus by sacrebleu (Popovic 2015), 0 to 1; the score of a row is its sentence chrF."""

from __future__ import annotations

from functools import cache
from typing import Any

from llm_pipeline.evaluation.measure import Answered, Outputs, Row

COLUMNS = ("answer",)


def score(row: Row, outputs: Outputs) -> float:
    return round(float(_chrf().sentence_score(outputs.text, [str(row["answer"])]).score) / 100, 6)


def corpus(answered: Answered) -> dict[str, Any]:
    found = _chrf().corpus_score([outputs.text for _, outputs in answered], [[str(row["answer"]) for row, _ in answered]])
    return {"value": round(found.score / 100, 6), "signature": str(_chrf().get_signature())}


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
