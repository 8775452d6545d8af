"""What an index generation is on disk: a LanceDB table to search, the passages it finds, how often each token occurs, and facts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_pipeline.errors import ContractError, PipelineError
from llm_pipeline.retrieval.access import PUBLIC
from llm_pipeline.retrieval.embedding import Embedder, Tokens, Vectors
from llm_pipeline.retrieval.passages import BATCH, column, write_passages
from llm_pipeline.retrieval.search import FREQUENCIES, GENERATION, VECTORS, Searcher
from llm_pipeline.store import write_atomically

LAYOUT = 3
"""Raised when a generation is written differently, so that an older one is not taken for it."""
APPROXIMATE_FROM = 20_000
"""Rows from which vectors are searched through IVF_SQ; below, an exact scan is both faster to build and fast enough."""
PARTITION, PARTITIONS = 8_192, 32
"""Vectors in a partition of the index, and how many partitions there are at least."""
REFINED = 2
"""Times as many candidates as asked for are compared by their whole vectors: quantised ones put one in twenty out of place."""


def write_generation(
    folder: Path,
    rows: pa.Table,
    texts: Sequence[str],
    vectors: Vectors,
    tokens: Sequence[Tokens] | None,
    documents: NDArray[np.int64],
    embedder: Mapping[str, Any],
) -> None:
    """Write the chunks `rows` with what is searched for each of them; `documents` is `document_frequencies`.

    The table is written in batches, so that beside the arguments little memory is needed.
    """
    import lancedb
    from lancedb.index import FTS, Bitmap, IvfSq, LabelList

    labels = [labels or [PUBLIC] for labels in column(rows, "labels", pa.list_(pa.string())).to_pylist()]
    large = rows.num_rows >= APPROXIMATE_FROM
    partitions = max(PARTITIONS, rows.num_rows // PARTITION)
    facts = {
        "embedder": dict(embedder),
        "layout": LAYOUT,
        "chunks": rows.num_rows,
        "labelled": any(PUBLIC not in each for each in labels),
        "search": {"nprobes": math.ceil(1.8 * math.sqrt(partitions)), "refined": REFINED} if large else {},
    }
    schema: Any = pa.schema(
        [
            *((name, pa.string()) for name in ("source", "kind", "indexed_text")),
            ("labels", pa.list_(pa.string())),
            ("vector", pa.list_(pa.float32(), vectors.shape[1])),
        ]
    )
    batches = _batches(rows, labels, texts, vectors, schema)
    table = lancedb.connect(str(folder / "lancedb"), read_consistency_interval=None).create_table("chunks", batches, schema=schema)
    table.create_index("indexed_text", config=FTS(with_position=False, stem=True, remove_stop_words=False, ascii_folding=True))
    if facts["labelled"]:
        table.create_index("labels", config=LabelList())
    if large:
        table.create_index("vector", config=IvfSq(distance_type="cosine", num_partitions=partitions))
        for name in ("source", "kind"):
            table.create_index(name, config=Bitmap())
    table.wait_for_index([index.name for index in table.list_indices()], timedelta(minutes=10))
    write_passages(folder, rows, tokens)
    np.lib.format.open_memmap(folder / VECTORS, "w+", np.float16, vectors.shape)[:] = vectors
    np.save(folder / FREQUENCIES, documents)
    write_atomically(folder / GENERATION, json.dumps(facts, indent=1, sort_keys=True))


def _batches(rows: pa.Table, labels: list[list[str]], texts: Sequence[str], vectors: Vectors, schema: Any) -> Iterator[pa.RecordBatch]:
    plain = [column(rows, name, pa.string()) for name in ("source", "kind")]
    for start in range(0, rows.num_rows, BATCH):
        part = slice(start, start + BATCH)
        some = vectors[part]
        columns: list[Any] = [each.slice(start, BATCH).combine_chunks() for each in plain]
        columns += [
            pa.array(texts[part], pa.string()),
            pa.array(labels[part], schema.field("labels").type),
            pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(some).reshape(-1), pa.float32()), some.shape[1]),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def document_frequencies(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.int64]:
    """In how many of the texts each token id stands."""
    counts = np.zeros(1, np.int64)
    for start in range(0, len(texts), BATCH):
        for pieces in embedder.pieces(texts[start : start + BATCH]):
            unique = np.unique(pieces)
            if len(unique) and unique[-1] >= len(counts):
                counts = np.concatenate([counts, np.zeros(max(len(counts), int(unique[-1]) + 1 - len(counts)), np.int64)])
            counts[unique] += 1
    return counts


def verify(folder: Path, ids: Sequence[str], vectors: Vectors, *, sample: int = 50, least: float = 0.95) -> dict[str, float]:
    """Refuse a generation that lost rows or whose vector search misses what brute force finds (recall@10 of `sample` rows)."""
    searcher = Searcher(folder, reranker=None)
    if searcher.count != len(ids):
        raise ContractError(f"index {folder.name}: {searcher.count} chunks, expected {len(ids)}")
    if searcher.passages.ids != list(ids):
        raise ContractError(f"index {folder.name}: its passages are not the chunks, or not in their order")
    picked = np.linspace(0, len(ids) - 1, min(sample, len(ids))).astype(int).tolist()
    k = min(10, len(ids))
    found = 0
    for row in picked:
        similarity = vectors @ vectors[row]
        floor = np.partition(similarity, -k)[-k] - 1e-4
        allowed = set(np.flatnonzero(similarity >= floor).tolist())
        found += len(allowed & set(searcher.nearest(vectors[row], k)))
    recall = min(1.0, found / (k * len(picked)))
    if recall < least:
        raise ContractError(f"index {folder.name}: vector recall@{k} {recall:.3f}, expected at least {least}")
    return {"vector_recall": round(recall, 4)}


def intact(folder: Path) -> bool:
    """Whether a finished generation can still be read and searched."""
    try:
        json.loads((folder / "manifest.json").read_text("utf-8"))
        searcher = Searcher(folder, reranker=None)
        searcher.matching("a", 1)
        searcher.passages.rows(searcher.nearest(np.ones(searcher.dimensions, np.float32), 1))
    except (PipelineError, OSError, ValueError):
        return False
    return True


def verify_embedder(embedder: Embedder, texts: Sequence[str], vectors: Vectors, *, sample: int = 8, least: float = 0.99) -> None:
    """Refuse vectors that this embedder would not make: those of another model, or of other texts."""
    picked = np.linspace(0, len(texts) - 1, min(sample, len(texts))).astype(int).tolist()
    cosines = (embedder.embed([texts[i] for i in picked]) * vectors[picked]).sum(axis=1)
    if cosines.min() < least:
        worst = picked[int(cosines.argmin())]
        raise ContractError(f"row {worst}: its vector and what {embedder.id} makes of its text have cosine {cosines.min():.3f}")
