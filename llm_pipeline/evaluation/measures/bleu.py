"""BLEU of the whole corpus by sacrebleu (Post 2018), 0 to 1; the score of a row is its sentence BLEU."""

from __future__ import annotations

from functools import cache
from typing import Any

from llm_pipeline.evaluation.measure import Answered, Outputs, Row

COLUMNS = ("answer",)


def score(row: Row, outputs: Outputs) -> float:
    return round(float(_bleu(True).sentence_score(outputs.text, [str(row["answer"])]).score) / 100, 6)


def corpus(answered: Answered) -> dict[str, Any]:
    found = _bleu(False).corpus_score([outputs.text for _, outputs in answered], [[str(row["answer"]) for row, _ in answered]])
    return {"value": round(found.score / 100, 6), "signature": str(_bleu(False).get_signature())}


@cache
def _bleu(effective_order: bool) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=effective_order)
