"""Searching one index generation: vectors and full text, fused by rank, reranked, and only what the asking key may see."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm_pipeline.errors import ContractError, InputError, MissingError, near
from llm_pipeline.retrieval.access import NO_FILTERS, Filters, condition
from llm_pipeline.retrieval.embedding import Embedder, Vectors
from llm_pipeline.retrieval.rerank import Reranker, open_reranker

Mode = Literal["hybrid", "vector", "text"]
MODES = ("hybrid", "vector", "text")
FUSION_K = 10
"""Reciprocal rank fusion's constant (Cormack et al. 2009): 10 beat the usual 60 by 1.5 points of recall@5 where it was measured."""
DEPTH = 30
"""How many candidates of each search are fused, and at least so many reranked."""
GENERATION = "generation.json"
"""What a generation says of itself: embedder, layout, vector index, whether any chunk has labels, number of chunks."""
FREQUENCIES = "documents.npy"
"""In how many chunks each token id stands."""
_FIELDS = ["id", "document_id", "uri", "external_id", "source", "title", "text"]
_LONGEST_QUERY = 2_000


@dataclass(frozen=True)
class Passage:
    """One chunk that was found; `score` orders a result and compares only within it."""

    id: str
    document_id: str
    uri: str
    external_id: str | None
    source: str
    title: str
    text: str
    score: float


class Searcher:
    """Reads one generation (`path` is the artefact's folder); calls may come from many threads at once.

    Without an `embedder` the one that made the generation is loaded; another one is refused, since its vectors mean something else.
    `reranker` is `light`, a file of weights, a cross-encoder's folder or hub id, a reranker, or None.
    """

    def __init__(self, path: Path, embedder: Embedder | None = None, reranker: Reranker | str | None = "light") -> None:
        import lancedb

        if not (path / "lancedb").is_dir():
            raise MissingError(f"{path}: not an index generation (it has no folder lancedb)")
        if not (path / GENERATION).exists():
            raise MissingError(f"{path}: a generation of an older layout (it has no {GENERATION}); build the index again")
        self.path = path
        try:
            self.facts: dict[str, Any] = json.loads((path / GENERATION).read_text("utf-8"))
            self._table = lancedb.connect(str(path / "lancedb")).open_table("chunks")
            self.count: int = self._table.count_rows()
            self._documents = np.load(path / FREQUENCIES)
        except (ValueError, OSError, RuntimeError) as error:
            raise _damaged(path, error) from error
        self.embedder = embedder or Embedder(**self.facts["embedder"])
        if self.embedder.space != self.facts["embedder"]:
            raise ContractError(f"{path}: made with the embedder {self.facts['embedder']}, asked with {self.embedder.space}")
        self.reranker = self._open(reranker)

    def _open(self, reranker: Reranker | str | None) -> Reranker | None:
        if not isinstance(reranker, str):
            return reranker
        if reranker == "light" and not self._documents.any():
            return None  # this embedder gives no vectors of tokens
        return open_reranker(reranker, self._documents, self.count)

    def search(
        self,
        question: str,
        k: int = 5,
        mode: Mode = "hybrid",
        labels: Collection[str] = frozenset(),
        *,
        filters: Filters = NO_FILTERS,
        rerank: bool | None = None,
        distinct: bool = True,
    ) -> list[Passage]:
        """The `k` best passages, best first, among those that a key with `labels` may see; a question without a word finds nothing.

        `rerank`: by default hybrid results are. `distinct`: of passages with the same text only the best is returned.
        """
        if mode not in MODES:
            raise InputError(f"search mode {mode!r}{near(mode, MODES)}")
        text = clean_question(question)
        if not re.search(r"\w", text) or k < 1:
            return []
        rows = self.candidates(text, max(k, DEPTH), mode, condition(labels, filters, labelled=self.facts["labelled"]))
        if self.reranker and rows and (mode == "hybrid" if rerank is None else rerank):
            scores = self.reranker(text, self.embedder.question(text), rows)
            order = np.argsort(-np.asarray(scores), kind="stable")
            rows = [{**rows[i], "_fused": float(scores[i])} for i in order]
        kept = first_of_each_text(rows) if distinct else rows
        return [Passage(**{name: row[name] for name in _FIELDS}, score=row["_fused"]) for row in kept[:k]]

    def candidates(self, text: str, k: int, mode: Mode = "hybrid", where: str | None = None) -> list[dict[str, Any]]:
        """What both searches found, fused by rank: rows with `_fused`, `_score` of the full text, `tokens` and `indexed_text`."""
        rankings = []
        if mode != "text":
            rankings.append(self.by_vector(self.embedder(text), k, where))
        if mode != "vector":
            rankings.append(self.by_text(text, k, where))
        return fuse(rankings)

    def by_vector(self, vector: Vectors, k: int, where: str | None = None) -> list[dict[str, Any]]:
        query = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        for setting, value in self.facts["search"].items():
            query = getattr(query, setting)(value)
        return self._rows(query, "_distance", k, where)

    def by_text(self, question: str, k: int, where: str | None = None) -> list[dict[str, Any]]:
        from lancedb.query import MatchQuery

        return self._rows(self._table.search(MatchQuery(question, "indexed_text"), query_type="fts"), "_score", k, where)

    def _rows(self, query: Any, score: str, k: int, where: str | None) -> list[dict[str, Any]]:
        if where:
            query = query.where(where)
        try:
            return query.select([*_FIELDS, "indexed_text", "tokens", score]).limit(k).to_list()
        except (OSError, RuntimeError) as error:
            raise _damaged(self.path, error) from error

    @property
    def dimensions(self) -> int:
        """How long its vectors are."""
        return int(self._table.schema.field("vector").type.list_size)

    def sample(self, n: int) -> list[dict[str, Any]]:
        """Some chunks, the same ones each time."""
        return self._table.search().select(_FIELDS).limit(n).to_list()


def _damaged(path: Path, error: Exception) -> ContractError:
    return ContractError(f"{path}: this generation is damaged, build the index again or roll back to another one: {error}")


def clean_question(question: str) -> str:
    """Words only for the full-text parser's sake: control characters become spaces, and length is bounded."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]+", " ", question[:_LONGEST_QUERY]).strip()


def fuse(rankings: Sequence[Sequence[Mapping[str, Any]]], constant: int = FUSION_K) -> list[dict[str, Any]]:
    """Reciprocal rank fusion: a row scores the sum of 1 / (constant + rank) over the rankings (`_fused`); ties go by id."""
    scores: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row["id"]] = scores.get(row["id"], 0.0) + 1 / (constant + rank)
            rows[row["id"]] = {**rows.get(row["id"], {}), **row}
    order = sorted(scores, key=lambda identity: (-scores[identity], identity))
    return [rows[identity] | {"_fused": scores[identity]} for identity in order]


def first_of_each_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        best.setdefault(" ".join(row["text"].split()), row)
    return list(best.values())


def passages_json(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    return [asdict(passage) for passage in passages]
