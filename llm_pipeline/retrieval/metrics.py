"""How well an index finds what answers a question: recall, mean reciprocal rank and nDCG over the suites' relevant names.

A suite row names the documents that hold its answer by uri or external id; a passage is relevant when either of its own
names is listed. Several passages of one document count once, at the first one's rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_pipeline.evaluation.metrics import is_grounded

if TYPE_CHECKING:
    from llm_pipeline.retrieval.search import Mode, Passage, Searcher

CUTOFFS = (1, 5, 10)
DEPTH = 10
ANSWERED = 2
"""Of how many passages one must hold the answer: as many as a release answers over unless it says otherwise."""


def gains(passages: Sequence[Passage], relevant: Iterable[str]) -> list[int]:
    """Per rank 1 when the passage belongs to a relevant document that no earlier rank showed, else 0."""
    left = set(relevant)
    result = []
    for passage in passages:
        names = {passage.uri, passage.external_id} & left
        left -= names
        result.append(int(bool(names)))
    return result


def recall_at(gain: Sequence[int], relevant: int, k: int) -> float:
    """Share of the relevant documents among the first `k` (of those that `k` places can show)."""
    return sum(gain[:k]) / min(relevant, k)


def reciprocal_rank(gain: Sequence[int]) -> float:
    """1 / rank of the first relevant passage, 0 without one (its mean is MRR; Voorhees 1999)."""
    return next((1 / rank for rank, value in enumerate(gain, 1) if value), 0.0)


def ndcg_at(gain: Sequence[int], relevant: int, k: int = DEPTH) -> float:
    """Normalised discounted cumulative gain with binary gains and a log2 discount (Järvelin and Kekäläinen 2002)."""
    discounts = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    ideal = sum(discounts[: min(relevant, k)])
    return sum(g * d for g, d in zip(gain, discounts, strict=False)) / ideal


def evaluate(searcher: Searcher, rows: Sequence[Mapping[str, Any]], mode: Mode = "hybrid") -> dict[str, float]:
    """The means over the rows that name a relevant document; empty when none does.

    `answerable`: the share of the questions whose expected answer stands in one of the first passages, so that a reader could give it.
    """
    asked = [row for row in rows if row.get("relevant")]
    if not asked:
        return {}
    pairs: list[tuple[list[int], int]] = []
    held: list[bool] = []
    for row in asked:
        names = {str(name) for name in row["relevant"]}
        found = searcher.search(row["question"], DEPTH, mode)
        pairs.append((gains(found, names), len(names)))
        if row.get("answer"):
            held.append(is_grounded(str(row["answer"]), [passage.text for passage in found[:ANSWERED]]))
    answerable = {f"answerable@{ANSWERED}": round(float(np.mean(held)), 4)} if held else {}
    return mean_scores(pairs) | answerable


def report(searcher: Searcher, suites: Mapping[str, Sequence[Mapping[str, Any]]], mode: Mode = "hybrid") -> dict[str, dict[str, float]]:
    """`evaluate` for every suite that names relevant documents; the questions are embedded together first."""
    searcher.embedder.warm([row["question"] for rows in suites.values() for row in rows if row.get("relevant")])
    results = {name: evaluate(searcher, rows, mode) for name, rows in suites.items()}
    return {name: result for name, result in results.items() if result}


def score_results(results: Sequence[Mapping[str, Any]], relevant: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The same figures of ranked rows (query_id, id; best first) for the questions whose relevant ids are known."""
    ranked: dict[str, list[str]] = {identity: [] for identity in relevant}
    for row in results:
        if row["query_id"] in ranked:
            ranked[row["query_id"]].append(row["id"])
    return mean_scores([([int(name in names) for name in ranked[identity]], len(set(names))) for identity, names in relevant.items()])


def mean_scores(asked: Sequence[tuple[Sequence[int], int]]) -> dict[str, float]:
    """Mean figures of (gain per rank, number of relevant documents) for every question."""
    if not asked:
        return {}
    scores = [
        {f"recall@{k}": recall_at(gain, relevant, k) for k in CUTOFFS}
        | {"mrr": reciprocal_rank(gain[:DEPTH]), f"ndcg@{DEPTH}": ndcg_at(gain, relevant)}
        for gain, relevant in asked
    ]
    return {name: round(float(np.mean([score[name] for score in scores])), 4) for name in scores[0]} | {"n": len(asked)}
