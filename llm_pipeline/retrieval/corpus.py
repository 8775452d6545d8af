"""Plain files as an index: rows of id and text to chunks, and the answers to a file of questions."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.files import Corpus, Damage, with_ids_as
from llm_pipeline.errors import InputError
from llm_pipeline.retrieval.access import NO_FILTERS, Filters, labels_of
from llm_pipeline.retrieval.chunking import SCHEMA, Counter, Sizes, chunk_document, minilm_counter
from llm_pipeline.retrieval.search import Mode, Passage, Searcher, clean_question

Question = tuple[Any, str, list[str]]
"""Its id (text or a whole number), what is asked, and the ids of the relevant rows where they are known."""
IDS, TEXTS = ("query_id", "id", "_id"), ("text", "question", "query")
"""Names of a question's columns, the first that is there."""


def result_table(found: Sequence[Mapping[str, Any]], id_type: Any) -> pa.Table:
    """The rows that `answer` gives, with ids of the types that corpus and questions have, so that they can be joined."""
    numbers = bool(found) and all(isinstance(row["query_id"], int) for row in found)
    columns: dict[str, Any] = {
        "query_id": pa.int64() if numbers else pa.string(),
        "rank": pa.int64(),
        "id": pa.string(),
        "score": pa.float64(),
    }
    return with_ids_as(pa.Table.from_pylist(list(found), schema=pa.schema(columns)), id_type)


def corpus_chunks(corpus: Corpus, sizes: Sizes, count: Counter | None = None) -> pa.Table:
    """The chunks of all rows; a row that fits is one chunk and keeps its id. Columns title, labels, source and kind are used if there.

    Rows without text count as damaged.
    """
    counter, rows = count or minilm_counter(), [row for table in corpus() for row in table.to_pylist()]
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if row["id"] in seen:
            raise InputError(f"{corpus.path}: the id {row['id']!r} stands twice; search results could not be told apart")
        seen.add(row["id"])
        if not row["text"].strip():
            corpus.damaged[Damage(corpus.path.name, number, f"empty_text: {row['id']}")] = None
    chunks = [chunk for row in rows if row["text"].strip() for chunk in _chunks(row, counter, sizes)]
    if not chunks:
        raise InputError(f"{corpus.path}: none of {len(rows)} rows has text to index")
    return pa.Table.from_pylist(chunks, schema=SCHEMA)


def _chunks(row: Mapping[str, Any], count: Counter, sizes: Sizes) -> Iterator[dict[str, Any]]:
    try:
        labels = labels_of(row.get("labels"))
    except InputError as error:
        raise InputError(f"row {row['id']!r}: {error}") from error
    document = {
        "id": row["id"],
        "uri": row["id"],
        "external_id": None,
        "source": str(row.get("source") or "corpus"),
        "kind": str(row.get("kind") or "doc"),
        "title": str(row.get("title") or ""),
        "text": row["text"],
        "labels": labels,
    }
    chunks = [asdict(chunk) for chunk in chunk_document(document, count, sizes)]
    if len(chunks) == 1:
        chunks[0]["id"] = row["id"]
    yield from chunks


def read_questions(path: Path) -> list[Question]:
    """Id, text and relevant ids of every row: `query_id` or `id`, `text` or `question`, and `relevant` if it is there.

    Ids are whole numbers if all of them are, else text.
    """
    found: list[Question] = []
    for where, row in _rows(path):
        given: Mapping[str, Any] = row if isinstance(row, dict) else {}
        identity = next((given[name] for name in IDS if given.get(name) is not None), None)
        text = next((given[name] for name in TEXTS if given.get(name) is not None), None)
        if identity is None or not isinstance(text, str):
            raise InputError(f"{where}: received {', '.join(given) or 'no object'}, expected query_id (or id) and text (or question)")
        relevant = given.get("relevant") or []
        found.append((identity, text, [str(name) for name in (relevant if isinstance(relevant, list) else [relevant])]))
    numbers = all(type(identity) is int and -(2**63) <= identity < 2**63 for identity, _, _ in found)
    named = found if numbers else [(str(identity), text, relevant) for identity, text, relevant in found]
    if twice := [identity for identity, times in Counts(identity for identity, _, _ in named).items() if times > 1]:
        raise InputError(f"{path}: the id {twice[0]!r} stands twice; results could not be told apart")
    return named


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Every row with its place: JSON lines, gzipped or not, or Parquet."""
    try:
        if path.suffix == ".parquet":
            yield from ((f"{path}: row {number}", row) for number, row in enumerate(pq.read_table(path).to_pylist()))
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _parsed(line, f"{path}:{number}")
    except (UnicodeDecodeError, OSError, EOFError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: expected JSON lines (also gzipped) or Parquet, received a file that is neither: {error}") from error


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected one JSON object per line, received {line[:80]!r}") from error


def answer(
    searcher: Searcher,
    questions: Sequence[Question],
    k: int,
    mode: Mode = "hybrid",
    *,
    labels: frozenset[str] = frozenset(),
    filters: Filters = NO_FILTERS,
    rerank: bool | None = None,
    each: Callable[[float], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """The ranked rows of the corpus for every question, as rows of `result_table`; a row counts once, with its best chunk.

    `each` hears of every question how many seconds its search took; the questions are embedded together before.
    """
    texts = [clean_question(text) for _, text, _ in questions]
    for start in range(0, len(questions), searcher.embedder.remembered):
        part = slice(start, start + searcher.embedder.remembered)
        searcher.embedder.warm(texts[part])
        for identity, text, _ in questions[part]:
            started = time.perf_counter()
            find = partial(searcher.search, text, mode=mode, labels=labels, filters=filters, rerank=rerank, distinct=False)
            best = _best_chunks(find, k)
            for rank, passage in enumerate(best[:k], 1):
                yield {"query_id": identity, "rank": rank, "id": passage.document_id, "score": passage.score}
            each(time.perf_counter() - started)


def _best_chunks(find: Callable[..., list[Passage]], k: int) -> list[Passage]:
    """The best chunk of each row; asks for more chunks until there are `k` rows or no more chunks."""
    asked = k
    while True:
        chunks = find(k=asked)
        best: dict[str, Passage] = {}
        for passage in chunks:
            best.setdefault(passage.document_id, passage)
        if len(best) >= k or len(chunks) < asked:
            return list(best.values())
        asked *= 4
