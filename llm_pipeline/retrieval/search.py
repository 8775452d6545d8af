"""Searching one index generation: vectors and full text, fused by rank, reranked, and only what the asking key may see."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.errors import ContractError, InputError, MissingError, near
from llm_pipeline.retrieval.access import NO_FILTERS, Filters, condition
from llm_pipeline.retrieval.embedding import Embedder, Vectors
from llm_pipeline.retrieval.passages import FIELDS, PASSAGES, Passages
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
VECTORS = "vectors.npy"
"""The vectors in half precision, mapped into memory, to order by them what was found."""
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
        import lance

        if not (path / "lancedb").is_dir():
            raise MissingError(f"{path}: not an index generation (it has no folder lancedb)")
        if not (path / GENERATION).exists() or not (path / PASSAGES).exists():
            raise MissingError(f"{path}: a generation of an older layout; build the index again")
        self.path = path
        try:
            self.facts: dict[str, Any] = json.loads((path / GENERATION).read_text("utf-8"))
            # Lance's own reader: the wrapper of LanceDB adds 3 ms to each query
            self._table = lance.dataset(str(path / "lancedb" / "chunks.lance"))
            self.count: int = self._table.count_rows()
            self._starts = starts(self._table)
            self.passages = Passages(path)
            self._vectors = np.load(path / VECTORS, mmap_mode="r")
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
        return [Passage(**{name: row[name] for name in FIELDS}, score=row["_fused"]) for row in kept[:k]]

    def candidates(self, text: str, k: int, mode: Mode = "hybrid", where: str | None = None) -> list[dict[str, Any]]:
        """What both searches found, fused by rank: rows with `_fused`, `_score` of the full text, `vector`, `tokens` and `indexed_text`."""
        rankings: list[Iterable[int]] = [self.nearest(self.embedder(text), k, where)] if mode != "text" else []
        scores = self.matching(text, k, where) if mode != "vector" else {}
        fused = fuse([*rankings, scores])
        rows = self.passages.rows(fused)
        return [
            row | {"_fused": score, "_score": scores.get(number, 0.0), "vector": self._vectors[number]}
            for row, (number, score) in zip(rows, fused.items(), strict=True)
        ]

    def nearest(self, vector: Vectors, k: int, where: str | None = None) -> list[int]:
        """Numbers of the rows whose vectors are nearest by cosine, nearest first."""
        query: dict[str, Any] = {"column": "vector", "q": vector, "k": k, "metric": "cosine"}
        settings = self.facts["search"]
        if not settings:
            return list(self._find("_distance", where, nearest=query))
        query |= {"k": k * settings["refined"], "nprobes": settings["nprobes"]}
        rows = np.fromiter(self._find("_distance", where, nearest=query), np.int64)
        return rows[np.argsort(-(self._vectors[rows].astype(np.float32) @ vector), kind="stable")[:k]].tolist()

    def matching(self, question: str, k: int, where: str | None = None) -> dict[int, float]:
        """Full-text scores by number of the rows that share words with the question, best first."""
        from lance.query import MatchQuery

        return self._find("_score", where, full_text_query=MatchQuery(question, "indexed_text"), limit=k)

    def _find(self, score: str, where: str | None, **query: Any) -> dict[int, float]:
        try:
            found = self._table.scanner([score], where, prefilter=where is not None, with_row_id=True, **query).to_table()
        except (OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from error
        places = found["_rowid"].to_numpy().astype(np.int64)
        numbers = self._starts[places >> 32] + (places & 0xFFFFFFFF)
        return dict(zip(numbers.tolist(), found[score].to_pylist(), strict=True))

    @property
    def dimensions(self) -> int:
        """How long its vectors are."""
        return int(self._table.schema.field("vector").type.list_size)

    def sample(self, n: int) -> list[dict[str, Any]]:
        """Some chunks, the same ones each time."""
        return self.passages.rows(range(min(n, self.count)))


def starts(table: Any) -> NDArray[np.int64]:
    """By a fragment's number how many rows stand before it: a place in the table is a fragment and a row of it."""
    counts = {fragment.fragment_id: fragment.count_rows() for fragment in table.get_fragments()}
    sizes = np.array([counts.get(i, 0) for i in range(max(counts, default=-1) + 1)], np.int64)
    return np.cumsum(sizes) - sizes


def _damaged(path: Path, error: Exception) -> ContractError:
    return ContractError(f"{path}: this generation is damaged, build the index again or roll back to another one: {error}")


def clean_question(question: str) -> str:
    """Words only for the full-text parser's sake: control characters become spaces, and length is bounded."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]+", " ", question[:_LONGEST_QUERY]).strip()


def fuse(rankings: Iterable[Iterable[int]], constant: int = FUSION_K) -> dict[int, float]:
    """Reciprocal rank fusion: a row scores the sum of 1 / (constant + rank) over the rankings; best first, ties by number."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (constant + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def first_of_each_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        best.setdefault(" ".join(row["text"].split()), row)
    return list(best.values())


def passages_json(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    return [asdict(passage) for passage in passages]
