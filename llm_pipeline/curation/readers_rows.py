"""JSONL, CSV and Parquet row by row: a row that is damaged says so in its place, and the next one arrives."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.decoding import Decoder, lines
from llm_pipeline.curation.raw_records import JSON, MAX_ROW, Record, broken, short
from llm_pipeline.curation.unpack import Stream

PARQUET_BATCH = 8 << 20
"""Bytes of rows that are taken from a Parquet file at a time."""
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_IDS = ("id", "external_id", "doc_id", "uuid")
_MAX_NAME = 1024
"""Characters of an id or address that a row may give itself."""
_TOO_LONG = f"too_large: a row of more than {MAX_ROW} bytes"


def is_day(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None


def structured(
    uri: str, number: int, content: bytes, row: Mapping[str, Any], encoding: str | None = None, parsed: Mapping[str, Any] | None = None
) -> Record:
    """A record of a row format takes its own id, uri and day from the row where it has them."""
    identity = _named(row, _IDS, (str, int, float))
    day = row.get("day")
    return Record(
        _named(row, ("uri", "url"), (str,)) or f"{uri}#{identity or number}",
        number,
        JSON,
        content,
        identity,
        day=day if isinstance(day, str) and is_day(day) else None,
        encoding=encoding,
        parsed=parsed,
    )


def _named(row: Mapping[str, Any], keys: Sequence[str], kinds: tuple[type, ...]) -> str | None:
    for key in keys:
        value = row.get(key)
        if isinstance(value, kinds) and (name := str(value)[:_MAX_NAME]):
            return name
    return None


def read_jsonl(stream: Stream, uri: str) -> Iterator[Record]:
    decoder = Decoder(stream)
    for number, (line, whole) in enumerate(lines(decoder.blocks()), 1):
        line = line.strip()
        if not line:
            continue
        if not whole:
            yield broken(uri, number, JSON, line, _TOO_LONG)
            continue
        try:
            row, encoding = _parsed(line, decoder)
        except (ValueError, RecursionError) as error:
            yield broken(uri, number, JSON, line, _not_json(line, error))
            continue
        if not isinstance(row, dict):
            yield broken(uri, number, JSON, line, f"not_an_object: received {type(row).__name__}, expected a JSON object")
            continue
        if encoding or (b"\\u" in line and _ESCAPED_SURROGATE.search(line)):
            line = _as_json(json.loads(decoder(line)[0]))
            row = json.loads(line)
        yield structured(uri, number, line, row, encoding, row)


def _parsed(line: bytes, decoder: Decoder) -> tuple[Any, str | None]:
    """What a line says, and its encoding where that is not UTF-8; by orjson, in a third of the time, where it reads the same as json.

    It refuses other encodings, NaN and half surrogate pairs, and makes floats of integers that 64 bits cannot hold.
    """
    try:
        row = orjson.loads(line)
        if not (isinstance(row, dict) and (any(isinstance(row.get(key), float) for key in _IDS) or _rounded(row))):
            return row, None
    except orjson.JSONDecodeError:
        pass
    text, encoding = decoder(line)
    return json.loads(text), encoding


def _rounded(value: Any) -> bool:
    """Whether a number somewhere may have been an integer that 64 bits cannot hold."""
    if isinstance(value, dict):
        return any(map(_rounded, value.values()))
    return any(map(_rounded, value)) if isinstance(value, list) else isinstance(value, float) and abs(value) >= 2**63


def _not_json(line: bytes, error: Exception) -> str:
    if b"\0" in line:
        return "nul_bytes: the line has NUL characters"
    return f"invalid_json: {'nested too deeply' if isinstance(error, RecursionError) else str(error).split(':')[0]}"


def _as_json(row: Any) -> bytes:
    """UTF-8 JSON; half a surrogate pair, which UTF-8 cannot hold, becomes a question mark."""
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace")


class _CsvLines:
    """The lines of a CSV file, remembering those of the present row: a quote that never closes must not swallow the rest."""

    def __init__(self, stream: Stream) -> None:
        self._lines = self._decoded(Decoder(stream))
        self._again: list[str] = []
        self._size = 0
        self.taken: list[str] = []
        self.ended = False
        self.encoding: str | None = None

    def _decoded(self, decoder: Decoder) -> Iterator[str | csv.Error]:
        for line, whole in lines(_with_newlines(decoder.blocks())):
            try:
                text, encoding = decoder(line)
            except ValueError as error:
                yield csv.Error(str(error))
                continue
            self.encoding = encoding or self.encoding
            yield text + "\n" if whole else csv.Error(f"a line of more than {MAX_ROW} bytes")

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        if isinstance(line, csv.Error):
            raise line
        self.taken.append(line)
        self._size += len(line)
        if self._size > MAX_ROW:
            raise csv.Error(f"more than {MAX_ROW} characters")
        return line

    def begin(self) -> None:
        self.taken, self._size, self.encoding = [], 0, None

    def give_back(self) -> str:
        """All lines of the row but the first come again; the first."""
        first, self.ended = self.taken[0] if self.taken else "", False
        self._again += reversed(self.taken[1:])
        return first


def _with_newlines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines that end in a carriage return alone, as old spreadsheets write them, get an end that everyone knows."""
    first = next(blocks, b"")
    old = b"\r" in first and b"\n" not in first
    yield first.replace(b"\r", b"\n") if old else first
    for block in blocks:
        yield block.replace(b"\r", b"\n") if old else block


def read_csv(stream: Stream, uri: str) -> Iterator[Record]:
    """Rows under a header; a row that cannot be parsed costs its first line, and parsing goes on with the second."""
    csv.field_size_limit(MAX_ROW)
    source, header, number = _CsvLines(stream), list[str](), 0
    rows = None
    while True:
        source.begin()
        try:
            rows = rows or csv.reader(source, delimiter=_delimiter(stream.peek()))
            cells = next(rows)
            problem = "unclosed_quote: a quotation mark opens here and never closes" if source.ended else None
        except StopIteration:
            return
        except csv.Error as error:
            cells, problem = [], f"invalid_csv: {error}"
        if problem:
            number, rows = number + 1, None
            yield broken(uri, number, JSON, source.give_back().encode(), problem)
        elif cells and not header:
            header = _header(cells)
        elif cells:
            number += 1
            yield _csv_row(uri, number, header, cells, source.encoding)


def _csv_row(uri: str, number: int, header: list[str], cells: list[str], encoding: str | None) -> Record:
    row = dict(zip(header, cells, strict=False))
    content = _as_json(row)
    if len(cells) != len(header):
        return broken(uri, number, JSON, content, f"ragged_csv: received {len(cells)} fields, expected {len(header)}")
    if "\0" in "".join(cells):
        return broken(uri, number, JSON, content, "nul_bytes: the text has NUL characters")
    return structured(uri, number, content, row, encoding, row)


def _delimiter(data: bytes) -> str:
    """A comma, unless the header has none and another usual delimiter instead."""
    header = data.split(b"\n", 1)[0]
    return "," if b"," in header else max(",;\t|", key=lambda mark: header.count(mark.encode()))


def _header(cells: list[str]) -> list[str]:
    """The names of the columns; a repeated name gets a number, so that no column hides another."""
    names = [cell.strip() for cell in cells]
    return [name if name not in names[:i] else f"{name}_{names[: i + 1].count(name)}" for i, name in enumerate(names)]


_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError)


def read_parquet(stream: Stream, uri: str) -> Iterator[Record]:
    """Row groups one after the other; one that cannot be read is a record, and the next one arrives."""
    with stream.seekable() as source:
        try:
            file = pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        except _UNREADABLE as error:
            source.seek(0)
            yield broken(uri, 0, "application/vnd.apache.parquet", source.read(1 << 12), f"broken_parquet: {short(error)}")
            return
        if repeated := repeated_name(file.schema_arrow):
            yield broken(uri, 0, JSON, b"", f"repeated_column: several columns are called {repeated}")
            return
        with file:
            first = 0
            for group in range(file.metadata.num_row_groups):
                yield from _row_group(file, group, first, uri)
                first += max(0, file.metadata.row_group(group).num_rows)


def repeated_name(schema: pa.Schema) -> str | None:
    """A name that several columns have: nobody can say which of them is meant."""
    names = schema.names
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _row_group(file: pq.ParquetFile, group: int, number: int, uri: str) -> Iterator[Record]:
    meta = file.metadata.row_group(group)
    rows = max(1, min(1024, PARQUET_BATCH * meta.num_rows // max(1, meta.total_byte_size)))
    try:
        for batch in file.iter_batches(batch_size=rows, row_groups=[group]):
            for row in _rows_of(batch):
                yield _parquet_row(uri, number, row)
                number += 1
    except _UNREADABLE as error:
        yield broken(uri, number, JSON, b"", f"broken_parquet: row group {group}: {short(error)}")


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch; in place of one that Python cannot hold (no UTF-8, a date after the year 9999), what is wrong with it."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except (ValueError, OverflowError) as error:
                yield short(error)


def _parquet_row(uri: str, number: int, row: dict[str, Any] | str) -> Record:
    if isinstance(row, str):
        return broken(uri, number, JSON, b"", f"undecodable: {row}")
    content = _as_json(row)
    if len(content) > MAX_ROW:
        return broken(uri, number, JSON, content, _TOO_LONG)
    return structured(uri, number, content, row, parsed=row)
