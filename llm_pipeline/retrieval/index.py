"""Index generations: chunks of the newest documents with vectors and full text, verified, then made `live` in one step.

A generation is an immutable folder named by the hash of its chunks and embedding model. Whoever reads an older one goes on
undisturbed while the pointer moves, since nothing in a generation ever changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from llm_pipeline.errors import ContractError, InputError, MissingError, near
from llm_pipeline.retrieval.chunking import indexed_text
from llm_pipeline.retrieval.embedding import Embedder, EmbeddingCache, Progress, Vectors
from llm_pipeline.store import Artifact, Artifacts, Home, table_hash

Mode = Literal["hybrid", "vector", "text"]
KIND = "vector_index"
APPROXIMATE_FROM = 20_000
"""Rows from which vectors are searched through IVF_SQ; below, an exact scan is both faster to build and fast enough."""
FUSION_K = 10
"""Reciprocal rank fusion's constant (Cormack et al. 2009): 10 beat the usual 60 by 1.5 points of recall@5 where it was measured."""
DEPTH = 30
"""How many candidates of each search are fused."""
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


def build_index(
    home: Home, days: Sequence[str] | None = None, *, embedder: Embedder | None = None, live: bool = True, progress: Progress | None = None
) -> Artifact:
    """Index the newest revision of every uri among the chunks of `days` (all when None) and point `live` at it once verified."""
    embedder = embedder or Embedder()
    fresh = newest(home.lake.read("chunks", days))
    rows = without_leaks(fresh, home.artifacts.named("evaluation_suites") if home.artifacts.has("evaluation_suites") else None)
    if not rows.num_rows:
        raise MissingError("no chunks to index: the days hold no article, web page, note or doc")
    artifacts = Artifacts(home.indexes)
    inputs = {"chunks": table_hash(rows), "embedder": embedder.id, "layout": 1, "approximate_from": APPROXIMATE_FROM}
    cache = EmbeddingCache(home.indexes / "cache", embedder)

    def make(folder: Path) -> Mapping[str, Any]:
        vectors = cache.embed(texts_of(rows), progress)
        write_generation(folder, rows, vectors)
        counts = {"chunks": rows.num_rows, "documents": len(rows["uri"].unique()), "leaks": fresh.num_rows - rows.num_rows}
        return counts | {"embedded": cache.made, **verify(folder, rows, vectors)}

    artifact = artifacts.build(KIND, inputs, make)
    if live:
        artifacts.point(KIND, "live", artifact.id)
    return artifact


def newest(chunks: pa.Table) -> pa.Table:
    """Only the chunks of the latest day on which their uri appears; of equal texts in a uri, one."""
    days, uris, ids = (strings(chunks, name) for name in ("day", "uri", "id"))
    last: dict[str, str] = {}
    for day, uri in zip(days, uris, strict=True):
        last[uri] = max(day, last.get(uri, ""))
    first: dict[str, int] = {}
    for i, (day, uri, identity) in enumerate(zip(days, uris, ids, strict=True)):
        if last[uri] == day:
            first.setdefault(identity, i)
    return chunks.take(pa.array(sorted(first.values()), pa.int64()))


def without_leaks(chunks: pa.Table, suites: Artifact | None) -> pa.Table:
    """Leave out passages that hold an evaluation question, unless the suite names their document as where its answer is.

    They would credit retrieval with copied answers, and an asked question without an answer draws the reader away from one.
    Questions of which no suite says where the answer is (and that should not be refused) prove nothing and are not looked for.
    """
    if suites is None:
        return chunks
    from llm_pipeline.curation.decontamination import find_contaminated

    asked: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(suites.path.glob("*.jsonl")):
        rows = suites.jsonl(path.name)
        asked[path.stem] = [row for row in rows if row.get("relevant") or row.get("kind") == "refusal"]
    sources = {str(name) for rows in asked.values() for row in rows for name in row.get("relevant") or ()}
    named = [bool({uri, external} & sources) for uri, external in zip(strings(chunks, "uri"), strings(chunks, "external_id"), strict=True)]
    leaks = {match.document for match in find_contaminated(strings(chunks, "text"), asked)}
    return chunks.take(pa.array([i for i in range(chunks.num_rows) if named[i] or i not in leaks], pa.int64()))


def strings(rows: pa.Table, name: str) -> list[str]:
    return [str(value) for value in rows[name].to_pylist()]


def texts_of(rows: pa.Table) -> list[str]:
    """What is embedded and searched for each chunk."""
    return [indexed_text(title, text) for title, text in zip(strings(rows, "title"), strings(rows, "text"), strict=True)]


def write_generation(folder: Path, rows: pa.Table, vectors: Vectors) -> None:
    import lancedb
    from lancedb.index import FTS, IvfSq

    texts = texts_of(rows)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1])
    table = rows.append_column("indexed_text", pa.array(texts, pa.string())).append_column("vector", column)
    opened = lancedb.connect(str(folder / "lancedb"), read_consistency_interval=None).create_table("chunks", table)
    opened.create_index("indexed_text", config=FTS(with_position=False, stem=True, remove_stop_words=True, ascii_folding=True))
    if table.num_rows >= APPROXIMATE_FROM:
        opened.create_index("vector", config=IvfSq(distance_type="cosine"))
    opened.wait_for_index([index.name for index in opened.list_indices()], timedelta(minutes=10))


def verify(folder: Path, rows: pa.Table, vectors: Vectors, *, sample: int = 50, least: float = 0.95) -> dict[str, float]:
    """Refuse a generation that lost rows or whose vector search misses what brute force finds (recall@10 of `sample` rows)."""
    searcher = Searcher(folder)
    if searcher.count != rows.num_rows:
        raise ContractError(f"index {folder.name}: {searcher.count} chunks, expected {rows.num_rows}")
    picked = np.linspace(0, rows.num_rows - 1, min(sample, rows.num_rows)).astype(int)
    ids, scores = rows["id"].to_pylist(), vectors[picked] @ vectors.T
    k = min(10, rows.num_rows)
    found = 0
    for row, similarity in zip(picked, scores, strict=True):
        floor = np.partition(similarity, -k)[-k] - 1e-4
        allowed = {ids[i] for i in np.flatnonzero(similarity >= floor)}
        found += len(allowed & {r["id"] for r in searcher.by_vector(vectors[row], k)})
    recall = min(1.0, found / (k * len(picked)))
    if recall < least:
        raise ContractError(f"index {folder.name}: vector recall@{k} {recall:.3f}, expected at least {least}")
    return {"vector_recall": round(recall, 4)}


class Searcher:
    """Reads one generation (`path` is the artefact's folder); calls may come from many threads at once."""

    def __init__(self, path: Path, embedder: Embedder | None = None) -> None:
        import lancedb

        folder = path / "lancedb"
        if not folder.is_dir():
            raise MissingError(f"{path}: not an index generation (it has no folder lancedb)")
        self.path, self.embedder = path, embedder or Embedder()
        self._table = lancedb.connect(str(folder)).open_table("chunks")
        self.count: int = self._table.count_rows()

    def search(self, question: str, k: int = 5, mode: Mode = "hybrid") -> list[Passage]:
        """The `k` best passages, best first; a question without a word finds nothing."""
        if mode not in ("hybrid", "vector", "text"):
            raise InputError(f"search mode {mode!r}{near(mode, ['hybrid', 'vector', 'text'])}")
        question = clean_question(question)
        if not re.search(r"\w", question) or k < 1:
            return []
        rankings = []
        if mode != "text":
            rankings.append(self.by_vector(self.embedder(question), max(k, DEPTH)))
        if mode != "vector":
            rankings.append(self.by_text(question, max(k, DEPTH)))
        return fuse(rankings, k)

    def by_vector(self, vector: Vectors, k: int) -> list[dict[str, Any]]:
        query = self._table.search(vector, vector_column_name="vector").distance_type("cosine")
        if self.count >= APPROXIMATE_FROM:
            query = query.nprobes(20).refine_factor(3)
        return query.select([*_FIELDS, "_distance"]).limit(k).to_list()

    def by_text(self, question: str, k: int) -> list[dict[str, Any]]:
        from lancedb.query import MatchQuery

        query = self._table.search(MatchQuery(question, "indexed_text"), query_type="fts")
        return query.select([*_FIELDS, "_score"]).limit(k).to_list()

    def sample(self, n: int) -> list[dict[str, Any]]:
        """Some chunks, the same ones each time."""
        return self._table.search().select(_FIELDS).limit(n).to_list()


_FIELDS = ["id", "document_id", "uri", "external_id", "source", "title", "text"]


def clean_question(question: str) -> str:
    """Words only for the full-text parser's sake: control characters become spaces, and length is bounded."""
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]+", " ", question[:_LONGEST_QUERY]).strip()


def fuse(rankings: Sequence[Sequence[Mapping[str, Any]]], k: int, constant: int = FUSION_K) -> list[Passage]:
    """Reciprocal rank fusion: a passage scores the sum of 1 / (constant + rank) over the rankings; ties go by id.

    Of passages with the same text only the best is returned.
    """
    scores: dict[str, float] = {}
    rows: dict[str, Mapping[str, Any]] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            scores[row["id"]] = scores.get(row["id"], 0.0) + 1 / (constant + rank)
            rows[row["id"]] = row
    best: dict[str, str] = {}
    for identity in sorted(scores, key=lambda identity: (-scores[identity], identity)):
        best.setdefault(" ".join(rows[identity]["text"].split()), identity)
    return [Passage(**{name: rows[i][name] for name in _FIELDS}, score=scores[i]) for i in list(best.values())[:k]]


def passages_json(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    return [asdict(passage) for passage in passages]
