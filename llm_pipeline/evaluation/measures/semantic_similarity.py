"""Cosine of the embeddings of answer and reference (the offline MiniLM model that retrieval uses), 0 for an empty answer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from llm_pipeline.evaluation.measure import Outputs, Row

if TYPE_CHECKING:
    from llm_pipeline.retrieval.embedding import Embedder

COLUMNS = ("answer",)


def score(row: Row, outputs: Outputs) -> float:
    if not outputs.text:
        return 0.0
    vectors = _embedder().embed([outputs.text, str(row["answer"])])
    return round(float(vectors[0] @ vectors[1]), 6)


@cache
def _embedder() -> Embedder:
    from llm_pipeline.retrieval.embedding import Embedder

    return Embedder(dtype="float32")
