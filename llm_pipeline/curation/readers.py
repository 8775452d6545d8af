"""Files of any supported format into raw rows with provenance; damage becomes a quarantined row, never an exception that loses the rest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.sources import FIRST_DAY, Source, land, local_path
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home, content_hash

MAX_BYTES = 1 << 28
"""Files that unpack to more are quarantined: a compressed bomb must not end the day."""
KEPT_OF_DAMAGED = 4096
"""Bytes of a damaged file that are kept to look at."""
JSON = "application/json"

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
}
RAW_SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class Record:
    """One row as read: what arrived, where from, and why it cannot be used when it cannot (`problem` is `reason: detail`)."""

    uri: str
    row: int
    media_type: str
    content: bytes
    external_id: str | None = None
    problem: str | None = None
    day: str | None = None


def read_source(source: Source, home: Home, day: str) -> pa.Table:
    """Land and read one day of a source as a table of RAW_SCHEMA; with `policy: strict` damage raises InputError."""
    root = land(source, home, day)
    dated = source.kind != "files"
    prefix = f"{source.name}://" if source.kind == "generator" else ""
    rows: list[dict[str, Any]] = []
    for path, at in _files_of_day(root, day, dated=dated):
        stamp = datetime.fromtimestamp(path.lstat().st_mtime, UTC).isoformat(timespec="seconds")
        for record in read_file(path, root, day if dated or at else None):
            if (record.day or FIRST_DAY) != day:
                continue
            if record.problem and source.policy == "strict" and not record.problem.startswith("unsupported_format"):
                raise InputError(f"source {source.name!r} (policy strict): {path}, row {record.row}: {record.problem}")
            rows.append(_raw_row(source, _named(record, prefix), stamp))
    return pa.Table.from_pylist([{**row, "day": day} for row in rows], schema=RAW_SCHEMA)


def _named(record: Record, prefix: str) -> Record:
    """A generated file is named like a page, without suffix: `support://articles/<slug>`."""
    if not prefix or "://" in record.uri:
        return record
    file, mark, item = record.uri.partition("#")
    stem = file if record.problem else re.sub(rf"\.({'|'.join(READERS)})(\.gz)?$", "", file)
    return replace(record, uri=f"{prefix}{stem}{mark}{item}")


def _raw_row(source: Source, record: Record, stamp: str) -> dict[str, Any]:
    return {
        "id": content_hash(source.name, record.uri, record.row, record.content),
        "source": source.name,
        "uri": record.uri,
        "row": record.row,
        "external_id": record.external_id,
        "media_type": record.media_type,
        "content": record.content,
        "sha256": hashlib.sha256(record.content).hexdigest(),
        "licence": source.licence,
        "owner": source.owner,
        "consent": source.consent,
        "retrieved_at": stamp,
        "problem": record.problem,
    }


def _files_of_day(root: Path, day: str, *, dated: bool) -> Iterator[tuple[Path, str | None]]:
    """Files that can hold rows of `day`, each with the day its folder names; hidden files are not read."""
    if root.is_file():
        yield root, None
        return
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or (path.is_dir() and not path.is_symlink()):
            continue
        at = next((part for part in relative.parts[:-1] if _is_day(part)), None)
        if dated or at in (None, day):
            yield path, at


def _is_day(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None


def read_file(path: Path, root: Path, day: str | None = None, *, suites: bool = False) -> Iterator[Record]:
    """All rows of one file below `root`, each on `day` unless the row itself names one; evaluation suites give none unless `suites`."""
    uri = _uri(path, root)
    suffix, packed = _suffix(path)
    empty = Record(uri, 0, "application/octet-stream", b"", day=day)
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        yield replace(empty, problem="symlink_outside: leads out of the source folder")
        return
    if suffix not in READERS:
        yield replace(empty, problem=f"unsupported_format: {suffix or 'no suffix'}; supported: {', '.join(READERS)}, each also .gz")
        return
    try:
        data, problem = _load(path, packed)
    except OSError as error:
        yield replace(empty, problem=f"unreadable: {error.strerror or type(error).__name__}")
        return
    if not data and not problem:
        problem = "empty_file: no bytes"
    if data and not suites and suffix in _TABULAR and is_suite_columns(_columns(data, suffix)):
        return
    if data:
        for record in READERS[suffix](data, uri):
            yield replace(record, day=record.day or day)
    if problem:
        yield replace(empty, row=-1 if data else 0, content=data[:KEPT_OF_DAMAGED], problem=problem)


def _uri(path: Path, root: Path) -> str:
    """Stable over days: relative to the source, without the folder that names the day."""
    relative = path.relative_to(root) if path != root else Path(path.name)
    return "/".join(part for part in relative.parts if not _is_day(part)) or path.name


def _suffix(path: Path) -> tuple[str, bool]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    plain = suffixes[:-1] if packed else suffixes
    return (plain[-1].removeprefix(".") if plain else ""), packed


def _load(path: Path, packed: bool) -> tuple[bytes, str | None]:
    """The bytes of a file, unpacked, and what was wrong with it: of a truncated gz everything up to the damage is kept."""
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if not packed:
        return (raw, None) if len(raw) <= MAX_BYTES else (b"", f"too_large: more than {MAX_BYTES} bytes")
    unpacked = bytearray()
    try:
        while raw:
            inflate = zlib.decompressobj(wbits=31)
            unpacked += inflate.decompress(raw, MAX_BYTES + 1 - len(unpacked))
            if len(unpacked) > MAX_BYTES:
                return b"", f"too_large: unpacks to more than {MAX_BYTES} bytes"
            if not inflate.eof:
                return bytes(unpacked), "truncated_gz: the stream ends early"
            raw = inflate.unused_data
    except zlib.error as error:
        return bytes(unpacked), f"corrupt_gz: {error}"
    return bytes(unpacked), None


def decode(data: bytes) -> tuple[str, str]:
    """Text and the encoding it was in: UTF-8, UTF-16 with a mark, cp1252, or what charset detection finds; else ValueError."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16"), "utf-16"
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    if b"\0" in data or _control_share(data) > 0.02:
        raise ValueError("binary: neither UTF-8 nor text of another encoding")
    high = sum(byte >= 0x80 for byte in data) / len(data)
    if high < 0.35:
        try:
            return data.decode("cp1252"), "cp1252"
        except UnicodeDecodeError:
            pass
    from charset_normalizer import from_bytes

    best = from_bytes(data[:20_000]).best()
    if best is None:
        raise ValueError("undecodable: no known encoding fits")
    return data.decode(best.encoding, errors="replace"), best.encoding


def _control_share(data: bytes) -> float:
    return sum(byte < 0x20 and byte not in b"\t\n\r\f\x1b" for byte in data[:KEPT_OF_DAMAGED]) / max(1, len(data[:KEPT_OF_DAMAGED]))


def _stem(uri: str) -> str:
    """A file that is one document is known by its name."""
    return uri.rsplit("/", 1)[-1].split(".", 1)[0]


def _read_text(media_type: str) -> Callable[[bytes, str], Iterator[Record]]:
    def read(data: bytes, uri: str) -> Iterator[Record]:
        record = Record(uri, 0, media_type, data, _stem(uri))
        try:
            text, _ = decode(data)
        except ValueError as error:
            yield replace(record, content=data[:KEPT_OF_DAMAGED], problem=str(error))
            return
        yield replace(record, problem="nul_bytes: the text has NUL characters") if "\0" in text else record

    return read


def _read_jsonl(data: bytes, uri: str) -> Iterator[Record]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        data = data.decode("utf-16", errors="replace").encode()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        record = Record(uri, number, JSON, line.strip())
        try:
            row = json.loads(decode(line)[0])
        except (ValueError, RecursionError) as error:
            yield replace(record, problem=f"invalid_json: {str(error).split(':')[0]}")
            continue
        if not isinstance(row, dict):
            yield replace(record, problem=f"not_an_object: received {type(row).__name__}, expected a JSON object")
            continue
        yield _structured(record, row)


def _read_csv(data: bytes, uri: str) -> Iterator[Record]:
    try:
        text, _ = decode(data)
    except ValueError as error:
        yield Record(uri, 0, "text/csv", data[:KEPT_OF_DAMAGED], problem=str(error))
        return
    csv.field_size_limit(MAX_BYTES)
    try:
        rows = csv.reader(io.StringIO(text, newline=""))
        header = [name.strip() for name in next(rows, [])]
        for number, cells in enumerate(rows, 1):
            if not cells:
                continue
            content = json.dumps(dict(zip(header, cells, strict=False)), ensure_ascii=False).encode()
            record = Record(uri, number, JSON, content)
            if len(cells) != len(header):
                yield replace(record, problem=f"ragged_csv: received {len(cells)} fields, expected {len(header)}")
            elif "\0" in "".join(cells):
                yield replace(record, problem="nul_bytes: the text has NUL characters")
            else:
                yield _structured(record, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        yield Record(uri, -1, "text/csv", b"", problem=f"invalid_csv: {error}")


def _read_parquet(data: bytes, uri: str) -> Iterator[Record]:
    number = 0
    try:
        for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                content = json.dumps(row, ensure_ascii=False, default=str).encode()
                yield _structured(Record(uri, number, JSON, content), row)
                number += 1
    except (pa.ArrowException, OSError, UnicodeError) as error:
        yield Record(uri, number, "application/vnd.apache.parquet", data[:KEPT_OF_DAMAGED], problem=f"broken_parquet: {_short(error)}")


def _read_pdf(data: bytes, uri: str) -> Iterator[Record]:
    from pypdf import PdfReader

    record = Record(uri, 0, "application/pdf", data, _stem(uri))
    try:
        pages = len(PdfReader(io.BytesIO(data)).pages)
    except Exception as error:  # pypdf raises many kinds on hostile files, recursion and key errors among them
        yield replace(record, content=data[:KEPT_OF_DAMAGED], problem=f"broken_pdf: {_short(error)}")
        return
    yield record if pages else replace(record, problem="broken_pdf: no pages")


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]


def _structured(record: Record, row: Mapping[str, Any]) -> Record:
    """A record of a row format takes its own id, uri and day from the row where it has them."""
    identity = next((str(row[name]) for name in ("id", "external_id", "doc_id", "uuid") if row.get(name) not in (None, "")), None)
    own = next((row[name] for name in ("uri", "url") if isinstance(row.get(name), str) and row[name]), None)
    day = row.get("day")
    uri = own or f"{record.uri}#{identity or record.row}"
    return replace(record, uri=uri, external_id=identity, day=day if isinstance(day, str) and _is_day(day) else None)


READERS: dict[str, Callable[[bytes, str], Iterator[Record]]] = {
    "txt": _read_text("text/plain"),
    "md": _read_text("text/markdown"),
    "html": _read_text("text/html"),
    "htm": _read_text("text/html"),
    "pdf": _read_pdf,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
_TABULAR = ("jsonl", "csv", "parquet")


def is_suite_columns(columns: Iterable[str]) -> bool:
    """Rows with a question and its answer measure a model; they are never text to learn from."""
    return {"question", "answer"} <= set(columns)


def _columns(data: bytes, suffix: str) -> list[str]:
    try:
        if suffix == "parquet":
            return list(pq.read_schema(pa.BufferReader(data)).names)
        line = decode(data[: 1 << 16].lstrip().split(b"\n", 1)[0])[0]
        return list(json.loads(line)) if suffix == "jsonl" else [name.strip() for name in next(csv.reader([line]), [])]
    except (ValueError, TypeError, OSError, pa.ArrowException, csv.Error):
        return []


def suite_files(source: Source, home: Home) -> list[Path]:
    """The evaluation suites among the files of a `files` source (rows with columns question and answer)."""
    if source.kind != "files":
        return []
    root = local_path(source, home)
    found = []
    for path in sorted([root] if root.is_file() else root.rglob("*")):
        suffix, packed = _suffix(path)
        if suffix in _TABULAR and path.is_file() and path.resolve().is_relative_to(root.resolve()):
            data, _ = _load(path, packed)
            if is_suite_columns(_columns(data, suffix)):
                found.append(path)
    return found
