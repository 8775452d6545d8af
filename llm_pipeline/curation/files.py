"""Plain files as corpora: Parquet, JSONL (also gzipped or zstandard), CSV or a folder, in tables of some thousand rows.

Parquet goes through as it is; everything else through the readers, so that damage is reported by file and row and the rest arrives.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.carry import Types, cell, note_types, schema_of
from llm_pipeline.curation.normalise import Unusable, draft_of
from llm_pipeline.curation.raw_records import short
from llm_pipeline.curation.readers import JSON, Record, files_of, parquet_columns, read_file
from llm_pipeline.curation.readers_rows import repeated_name
from llm_pipeline.errors import InputError

Batches = Callable[[], Iterator[pa.Table]]
"""A corpus that can be read again and again: each call starts at the first row, with at least the columns id and text."""
ROWS = 4096
CHARACTERS = 8 << 20
"""A table holds at most so many rows, and ends after so many characters of text."""


@dataclass(frozen=True)
class Damage:
    """A row or file that cannot be used; `reason` is `code: detail`."""

    file: str
    row: int
    reason: str


@dataclass
class Corpus:
    """A file or folder as `Batches`; `damaged` fills while it is read (the first time)."""

    path: Path
    need: tuple[str, ...] = ("id", "text")
    damaged: dict[Damage, None] = field(default_factory=dict)
    _schema: pa.Schema | None = None

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise InputError(f"{self.path}: no such file or folder")

    def __call__(self) -> Iterator[pa.Table]:
        """Tables with id and text as strings; other columns as they are. A corpus without rows gives one empty table."""
        schema, empty = self.schema, True
        for table in self._parquet() if self.path.suffix == ".parquet" else self._records():
            empty = False
            yield with_ids_as(table, pa.string(), self.need)
        if empty:
            yield with_ids_as(schema.empty_table(), pa.string(), self.need)

    @property
    def _untyped(self) -> bool:
        """CSV has no types: its ids are numbers when they look like numbers, as every other reader of CSV has it."""
        return ".csv" in self.path.suffixes

    @property
    def rows(self) -> int | None:
        """How many rows there are, where that is known beforehand."""
        return self._footer.num_rows if self.path.suffix == ".parquet" else None

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        try:
            return pq.read_metadata(self.path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: expected a Parquet file, received one that cannot be read: {short(error)}") from error

    @property
    def id_type(self) -> Any:
        """The type of the ids as they arrived, so that what is written can be joined with it."""
        return self.schema.field("id").type

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of all rows; of rows without declared types what fits every value, else its JSON as a string."""
        if self._schema is None:
            self._schema = self._footer.schema.to_arrow_schema() if self.path.suffix == ".parquet" else self._scan()
            if repeated := repeated_name(self._schema):
                raise InputError(f"{self.path}: several columns are called {repeated}, expected every name once")
            if missing := [name for name in self.need if name not in self._schema.names]:
                raise InputError(
                    f"{self.path}: no column {', '.join(missing)}; received {', '.join(self._schema.names) or 'no row at all'}"
                )
        return self._schema

    def _parquet(self) -> Iterator[pa.Table]:
        """Row group by row group: one that cannot be read is damage, and the next one arrives."""
        schema, first = self.schema, 0
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            for group in range(file.num_row_groups):
                number = first
                try:
                    for batch in file.iter_batches(batch_size=ROWS, row_groups=[group]):
                        yield self._usable(pa.Table.from_batches([batch], schema=schema), number)
                        number += batch.num_rows
                except (pa.ArrowException, OSError) as error:
                    self.damaged[Damage(self.path.name, number, f"broken_parquet: row group {group}: {short(error)}")] = None
                first += file.metadata.row_group(group).num_rows

    def _usable(self, table: pa.Table, first: int) -> pa.Table:
        """The rows whose id and text are there and are text; the others are damage."""
        bad: dict[int, str] = {}
        for name in self.need:
            column = table[name]
            bad |= {i: "missing_value: id or text is null" for i, there in enumerate(column.is_valid().to_pylist()) if not there}
            if not _is_text(column):
                bad |= {i: f"undecodable: {name} is not UTF-8" for i in range(len(column)) if not _is_text(column.slice(i, 1))}
        for i in sorted(bad):
            self.damaged[Damage(self.path.name, first + i, bad[i])] = None
        return table.take([i for i in range(table.num_rows) if i not in bad]) if bad else table

    def _records(self) -> Iterator[pa.Table]:
        schema, rows, size = self.schema, [], 0
        for row in chain.from_iterable(map(self._rows_of, files_of(self.path))):
            rows.append(row)
            size += len(str(row.get("text", "")))
            if len(rows) == ROWS or size >= CHARACTERS:
                yield _table(rows, schema)
                rows, size = [], 0
        if rows:
            yield _table(rows, schema)

    @property
    def _root(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def _rows_of(self, path: Path) -> Iterator[dict[str, Any]]:
        for record in read_file(path, self._root, suites=True):
            try:
                yield self._row(record)
            except Unusable as error:
                self.damaged[Damage(record.uri, record.row, f"{error.args[0]}: {error.args[1]}")] = None

    def _row(self, record: Record) -> dict[str, Any]:
        """A row of a row format by its columns; any other file is one document, known by its name."""
        if record.problem or record.media_type != JSON:
            draft = draft_of({"media_type": record.media_type, "content": record.content, "uri": record.uri, "problem": record.problem})
            return {"id": record.uri, "title": draft.title, "text": draft.text}
        row: dict[str, Any] = dict(record.parsed or json.loads(record.content))
        if self._untyped and _is_integer(row.get("id")):
            row["id"] = int(row["id"])
        missing = [name for name in self.need if row.get(name) is None or row[name] != row[name]]
        if missing:
            raise Unusable("missing_value", f"no {', '.join(missing)} among {', '.join(row) or 'no columns'}")
        return row | {name: _decoded(name, row[name]) for name in self.need if isinstance(row[name], bytes)}

    def _scan(self) -> pa.Schema:
        seen: Types = {}
        for path in files_of(self.path):
            columns = parquet_columns(path, self._root)
            for row in [columns] if columns is not None else self._rows_of(path):
                note_types(seen, row)
        if not seen and self.damaged:
            first = next(iter(self.damaged))
            raise InputError(
                f"{self.path}: none of {len(self.damaged)} rows can be used; the first: {first.file}, row {first.row}: {first.reason}"
            )
        return schema_of(seen, strings=["text"])


def _is_text(column: Any) -> bool:
    """Whether all values can be read as UTF-8, as Parquet promises and not every writer keeps."""
    try:
        column.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Unusable("undecodable", f"{name} is not UTF-8") from None


def _is_integer(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value) is not None


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([cell(row.get(field.name), field.type) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def texts(table: pa.Table) -> list[str]:
    return [str(text) for text in table["text"].to_pylist()]


def ids(table: pa.Table) -> list[str]:
    return [str(identity) for identity in table["id"].to_pylist()]


class ParquetOut:
    """Tables of one schema into a Parquet file that appears whole when the block ends well, and not at all otherwise."""

    def __init__(self, path: Path, compression: Literal["zstd", "none"] = "zstd") -> None:
        self.compression = compression
        self.path, self._staging = path, path.with_name(f".{path.name}.{os.getpid()}")
        self._writer: pq.ParquetWriter | None = None
        self.rows = 0

    def __enter__(self) -> ParquetOut:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(self.path)
        return self

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._staging, table.schema, compression=self.compression, use_dictionary=False, write_statistics=False
            )
        self._writer.write_table(table)
        self.rows += table.num_rows

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
        if error is None and self._writer is not None:
            os.replace(self._staging, self.path)
        self._staging.unlink(missing_ok=True)


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder for what is needed only until `path` is written, on the same disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    scratch = path.with_name(f".{path.name}.work.{os.getpid()}")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove what runs that were killed left beside `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        owner = left.name.rpartition(".")[2]
        if not owner.isdigit() or _runs(int(owner)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def with_ids_as(table: pa.Table, kind: Any, names: tuple[str, ...] = ("id",)) -> pa.Table:
    """The id columns in the type that they arrived in."""
    for name in names:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table


def suite_rows(path: Path) -> Mapping[str, list[dict[str, Any]]]:
    """The suites at a path, by name: rows {id, question or text, answer}; what has only a text counts as a question."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files_of(path):
        rows = found.setdefault(file.name.split(".")[0], [])
        for record in read_file(file, file.parent, suites=True):
            if record.problem or record.media_type != JSON:
                raise InputError(f"{file}: row {record.row}: {record.problem or 'not a row of a suite'}")
            row: dict[str, Any] = json.loads(record.content)
            question = row.get("question") or row.get("text")
            if not isinstance(question, str):
                raise InputError(f"{file}: row {record.row}: expected a question or a text, received the keys {', '.join(row)}")
            rows.append({**row, "id": str(row.get("id", len(rows))), "question": question, "answer": row.get("answer") or ""})
    return found
