"""Index generations: chunks of the newest documents with vectors and full text, verified, then made `live` in one step.

A generation is an immutable folder named by the hash of its chunks, embedding model and layout. Whoever reads an older one goes on
undisturbed while the pointer moves, since nothing in a generation ever changes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm_pipeline.errors import MissingError
from llm_pipeline.retrieval.chunking import indexed_text
from llm_pipeline.retrieval.embedding import Embedder, Progress
from llm_pipeline.retrieval.embedding_cache import EmbeddingCache
from llm_pipeline.retrieval.generation import LAYOUT, document_frequencies, intact, verify, verify_embedder, write_generation
from llm_pipeline.store import Artifact, Artifacts, Home, content_hash, table_hash

KIND = "vector_index"


def build_index(
    home: Home, days: Sequence[str] | None = None, *, embedder: Embedder | None = None, live: bool = True, progress: Progress | None = None
) -> Artifact:
    """Index the newest revision of every uri among the chunks of `days` (all when None) and point `live` at it once verified."""
    fresh = newest(home.lake.read("chunks", days))
    rows = without_leaks(fresh, home.artifacts.named("evaluation_suites") if home.artifacts.has("evaluation_suites") else None)
    counts = {"leaks": fresh.num_rows - rows.num_rows}
    return build_generation(home.indexes, rows, embedder or Embedder(), live=live, progress=progress, info=counts)


def build_generation(
    root: Path,
    rows: pa.Table,
    embedder: Embedder,
    *,
    live: bool = True,
    progress: Progress | None = None,
    info: Mapping[str, Any] | None = None,
) -> Artifact:
    """The generation of these chunks under `root`; what was embedded there before is not embedded again."""
    if not rows.num_rows:
        raise MissingError("no chunks to index: there is no article, web page, note or doc")
    artifacts = Artifacts(root)
    inputs = {"chunks": table_hash(rows), "embedder": embedder.id, "layout": LAYOUT}
    cache = EmbeddingCache(root / "cache", embedder)
    _discard_if_damaged(root / KIND / content_hash(inputs))

    def make(folder: Path) -> Mapping[str, Any]:
        texts = texts_of(rows)
        vectors, tokens = cache.encode(texts, progress)
        verify_embedder(embedder, texts, vectors)
        write_generation(folder, rows, texts, vectors, tokens, document_frequencies(embedder, texts), embedder.space)
        counts = {"chunks": rows.num_rows, "documents": len(rows["uri"].unique()), "embedded": cache.made}
        return {**counts, **(info or {}), **verify(folder, strings(rows, "id"), vectors)}

    artifact = artifacts.build(KIND, inputs, make)
    if live:
        artifacts.point(KIND, "live", artifact.id)
    return artifact


def _discard_if_damaged(folder: Path) -> None:
    """Out of the way with a generation that cannot be read any more, so that it is built again."""
    if folder.exists() and not intact(folder):
        doomed = folder.with_name(f".{folder.name}.damaged.{os.getpid()}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


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
