"""Files of any supported format into raw rows with provenance; damage becomes a quarantined row, never an exception that loses the rest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.archives import zip_members
from llm_pipeline.curation.connectors import land, local_path
from llm_pipeline.curation.decoding import decode
from llm_pipeline.curation.raw_records import HTML, JSON, MARKDOWN, TEXT, Record, broken
from llm_pipeline.curation.readers_documents import Reader, read_docx, read_email, read_pdf, text_reader
from llm_pipeline.curation.readers_rows import is_day, read_csv, read_jsonl, read_parquet
from llm_pipeline.curation.sources import FIRST_DAY, Source
from llm_pipeline.curation.unpack import Stream, file_stream, packing, unpacked
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home, content_hash

__all__ = ["JSON", "RAW_SCHEMA", "Record", "decode", "is_suite_columns", "local_path", "raw_batches", "raw_rows", "raw_table", "read_file"]

BATCH_ROWS, BATCH_BYTES = 4096, 32 << 20
"""A batch of raw rows ends after so many rows or bytes."""

_COLUMNS: dict[str, Any] = {
    "day": pa.string(),
    "id": pa.string(),
    "source": pa.string(),
    "uri": pa.string(),
    "row": pa.int64(),
    "external_id": pa.string(),
    "media_type": pa.string(),
    "content": pa.large_binary(),
    "sha256": pa.string(),
    "licence": pa.string(),
    "owner": pa.string(),
    "consent": pa.string(),
    "retrieved_at": pa.string(),
    "problem": pa.string(),
    "encoding": pa.string(),
}
RAW_SCHEMA = pa.schema(_COLUMNS)

FORMATS: dict[str, Reader] = {
    "txt": text_reader(TEXT),
    "md": text_reader(MARKDOWN),
    "html": text_reader(HTML),
    "htm": text_reader(HTML),
    "pdf": read_pdf,
    "docx": read_docx,
    "eml": read_email,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
}
_TABULAR = ("jsonl", "csv", "parquet")


def read_source(source: Source, home: Home, day: str) -> pa.Table:
    """Land and read one day of a source as a table of RAW_SCHEMA; with `policy: strict` damage raises InputError."""
    return pa.concat_tables([RAW_SCHEMA.empty_table(), *read_source_batches(source, home, day)])


def read_source_batches(source: Source, home: Home, day: str) -> Iterator[pa.Table]:
    """The same in tables of bounded size."""
    return raw_batches(source, _records(source, home, day), day)


def _records(source: Source, home: Home, day: str) -> Iterator[Record]:
    root = land(source, home, day)
    dated = source.kind != "files"
    prefix = f"{source.name}://" if source.kind == "generator" else ""
    for path, at in _files_of_day(root, day, dated=dated):
        for record in read_file(path, root, day if dated or at else None):
            if max(record.day or FIRST_DAY, FIRST_DAY) != day:
                continue
            if record.problem and source.policy == "strict" and not record.problem.startswith("unsupported_format"):
                raise InputError(f"source {source.name!r} (policy strict): {path}, row {record.row}: {record.problem}")
            yield _named(record, prefix)


def raw_batches(source: Source, records: Iterable[Record], day: str | None = None) -> Iterator[pa.Table]:
    """Tables of RAW_SCHEMA of at most BATCH_ROWS rows and about BATCH_BYTES bytes."""
    for batch in _batches(records):
        yield raw_table(source, batch, day)


def raw_rows(source: Source, records: Iterable[Record]) -> Iterator[list[dict[str, Any]]]:
    """The same batches for whoever reads every row once: what `normalise_rows` needs, and no table."""
    for batch in _batches(records):
        yield [
            {
                "source": source.name,
                "licence": source.licence,
                "uri": record.uri,
                "row": record.row,
                "external_id": record.external_id,
                "media_type": record.media_type,
                "content": record.content,
                "problem": record.problem,
                "encoding": record.encoding,
                "parsed": record.parsed,
            }
            for record in batch
        ]


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.content)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def raw_table(source: Source, records: Sequence[Record], day: str | None = None) -> pa.Table:
    """Records with the provenance of their source as a table of RAW_SCHEMA."""
    same = {"day": day, "source": source.name, "licence": source.licence, "owner": source.owner, "consent": source.consent}
    columns: dict[str, list[Any]] = {name: [value] * len(records) for name, value in same.items()}
    for name in ("uri", "row", "external_id", "media_type", "content", "retrieved_at", "problem", "encoding"):
        columns[name] = [getattr(record, name) for record in records]
    columns["id"] = [content_hash(source.name, record.uri, record.row, record.content) for record in records]
    columns["sha256"] = [hashlib.sha256(record.content).hexdigest() for record in records]
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in RAW_SCHEMA], schema=RAW_SCHEMA)


def _named(record: Record, prefix: str) -> Record:
    """A generated file is named like a page, without suffix: `support://articles/<slug>`."""
    if not prefix or "://" in record.uri:
        return record
    file, mark, item = record.uri.partition("#")
    stem = file if record.problem else re.sub(rf"\.({'|'.join(FORMATS)})(\.gz)?$", "", file)
    return replace(record, uri=f"{prefix}{stem}{mark}{item}")


def _files_of_day(root: Path, day: str, *, dated: bool) -> Iterator[tuple[Path, str | None]]:
    """Files that can hold rows of `day`, each with the day its folder names; hidden files are not read."""
    if root.is_file():
        yield root, None
        return
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        at = next((part for part in relative.parts[:-1] if is_day(part)), None)
        if dated or at in (None, day):
            yield path, at


def read_file(path: Path, root: Path, day: str | None = None, *, suites: bool = False) -> Iterator[Record]:
    """All rows of one file below `root`, each on `day` unless the row itself names one; evaluation suites give none unless `suites`.

    The file is read in blocks, so memory is bounded by its longest row (MAX_ROW) and not by its size.
    """
    uri, stamp = _uri(path, root), None
    try:
        problem = _refusal(path, root)
        stamp = datetime.fromtimestamp(path.lstat().st_mtime, UTC).isoformat(timespec="seconds")
    except (OSError, ValueError, OverflowError) as error:
        problem = f"unreadable: {getattr(error, 'strerror', None) or type(error).__name__}"
    records = iter([_damaged(uri, 0, problem)]) if problem else _contents(path, uri, suites)
    for record in records:
        record.day, record.retrieved_at = record.day or day, stamp
        yield record


def _refusal(path: Path, root: Path) -> str | None:
    """Why this path is not opened at all."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return "symlink_outside: leads out of the source folder"
    if not stat.S_ISREG(path.stat().st_mode):
        return "not_a_file: a pipe, device or link to a folder"
    return None


def _damaged(uri: str, row: int, problem: str, content: bytes = b"") -> Record:
    return broken(uri, row, "application/octet-stream", content, problem)


def _contents(path: Path, uri: str, suites: bool) -> Iterator[Record]:
    if path.suffix.lower() != ".zip":
        found = _file(file_stream(path), path.name, uri)
        yield from found if suites else _unless_suite(found, path.name)
        return
    for name, member in zip_members(path):
        at = f"{uri}/{_printable(name)}" if name else uri
        if not name.rsplit("/", 1)[-1].startswith("."):
            refused = _damaged(at, 0, "suite_in_archive: questions with answers measure a model; put them beside the archive")
            found = _file(member, name, at)
            yield from found if suites else _unless_suite(found, name, refused)


def _unless_suite(records: Iterator[Record], name: str, *otherwise: Record) -> Iterator[Record]:
    """The records, or `otherwise` when the first one is a question with its answer."""
    first = next(records, None)
    if first is None or _is_suite(first, name):
        yield from otherwise if first else ()
        return
    yield first
    yield from records


def _is_suite(first: Record, name: str) -> bool:
    if _suffix(name)[0] not in _TABULAR or not first.content:
        return False
    try:
        return is_suite_columns(json.loads(first.content))
    except (ValueError, TypeError, RecursionError):
        return False


def _file(packed: Stream, name: str, uri: str) -> Iterator[Record]:
    suffix, how = _suffix(name)
    if suffix not in FORMATS and not (packed.peek() == b"" and packed.problem):
        known = f"{', '.join(FORMATS)}, each also .gz, .zst and in .zip"
        yield _damaged(uri, 0, f"unsupported_format: {suffix or 'no suffix'}; supported: {known}")
        return
    stream = unpacked(packed, how)
    head = stream.peek()
    if head:
        yield from FORMATS[suffix](stream, uri)
    problem = stream.problem or packed.problem or (None if head else "empty_file: no bytes")
    if problem:
        yield _damaged(uri, -1 if head else 0, problem, head)


def is_tabular(name: str) -> bool:
    """Whether a file of this name can hold rows with columns (an archive may)."""
    return name.lower().endswith(".zip") or _suffix(name)[0] in _TABULAR


def parquet_columns(path: Path, root: Path) -> dict[str, Any] | None:
    """The types of the columns of a Parquet file that `read_file` would read; None for any other file."""
    try:
        plain = _suffix(path.name) == ("parquet", "") and not _refusal(path, root)
        return {field.name: field.type for field in pq.read_schema(path)} if plain else None
    except (pa.ArrowException, OSError, ValueError):
        return None


def files_of(path: Path) -> Iterator[Path]:
    """The file, or the files below a folder in order of their names, hidden ones left out."""
    if not path.is_dir():
        yield path
        return
    for found in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
        if not hidden and (found.is_file() or found.is_symlink()):
            yield found


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _uri(path: Path, root: Path) -> str:
    """Stable over days: relative to the source, without the folder that names the day."""
    relative = path.relative_to(root) if path != root else Path(path.name)
    name = "/".join(part for part in relative.parts if not is_day(part)) or path.name
    return os.fsencode(name).decode("utf-8", "replace")


def _suffix(name: str) -> tuple[str, str]:
    """(`jsonl`, `gz`) of `a.jsonl.gz`."""
    stem, how = packing(name.rsplit("/", 1)[-1])
    return (stem.rpartition(".")[2].lower() if "." in stem else ""), how


def is_suite_columns(columns: Iterable[str]) -> bool:
    """Rows with a question and its answer measure a model; they are never text to learn from."""
    return {"question", "answer"} <= set(columns)


def suite_files(source: Source, home: Home) -> list[Path]:
    """The evaluation suites among the files of a `files` source (rows with columns question and answer)."""
    if source.kind != "files":
        return []
    root = local_path(source, home)
    paths = sorted([root] if root.is_file() else root.rglob("*"))
    rows = [path for path in paths if _suffix(path.name)[0] in _TABULAR and path.is_file() and not _refusal(path, root)]
    return [path for path in rows if any(_is_suite(first, path.name) for first in islice(_contents(path, "", suites=True), 1))]
