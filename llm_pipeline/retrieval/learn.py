"""The light reranker's weights from questions whose passages are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from llm_pipeline.errors import InputError
from llm_pipeline.retrieval.corpus import Question
from llm_pipeline.retrieval.embedding import Vectors
from llm_pipeline.retrieval.rerank import LightReranker, fit
from llm_pipeline.retrieval.search import DEPTH, Searcher, clean_question
from llm_pipeline.store import write_atomically


def groups_of(searcher: Searcher, questions: Sequence[Question]) -> list[tuple[Vectors, int]]:
    """Features of every question's candidates and the row of the right one; questions whose passage was not found are left out."""
    if not isinstance(searcher.reranker, LightReranker):
        raise InputError(f"{searcher.path}: its embedder gives no vectors of tokens, which the light reranker needs")
    searcher.embedder.warm([text for _, text, _ in questions])
    groups = []
    for _, question, relevant in questions:
        text = clean_question(question)
        rows = searcher.candidates(text, DEPTH) if text else []
        right = next((i for i, row in enumerate(rows) if row["document_id"] in relevant), None)
        if right is not None:
            groups.append((searcher.reranker.features(searcher.embedder.question(text), rows), right))
    return groups


def learn(searcher: Searcher, questions: Sequence[Question]) -> tuple[list[float], int]:
    """The weights of late interaction, full text and whole vectors, and from how many questions they were learnt."""
    groups = groups_of(searcher, questions)
    return [round(float(weight), 3) for weight in fit(groups)], len(groups)


def write_weights(path: Path, weights: Sequence[float], trained: str) -> None:
    write_atomically(
        path, yaml.safe_dump({"late": weights[0], "text": weights[1], "whole": weights[2], "trained": trained}, sort_keys=False)
    )
