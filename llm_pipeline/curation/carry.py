"""The columns of an input that no stage knows: they go behind our own, under their names, so that nothing a user brought is lost.

One of ours that the input has too is never mixed up with it: the input's comes as `input_NAME`. Parquet keeps its types; of JSON and CSV
a column gets the type that fits all of its values, and what is nested or mixed is its JSON as a string.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llm_pipeline.curation.readers import files_of, is_suite_columns, is_tabular, parquet_columns, read_file
from llm_pipeline.errors import ContractError

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Corpus

Types = dict[str, set[Any]]
_OF_JSON: dict[type, Any] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}


@dataclass(frozen=True)
class Carried:
    """Which columns of an input are carried: what it calls them, and how they are called and typed in the output."""

    names: tuple[str, ...]
    fields: tuple[Any, ...]

    @staticmethod
    def of(schema: pa.Schema, ours: Sequence[str], used: Collection[str]) -> Carried:
        """All columns but those `used`; the names `ours` are taken."""
        names, taken, fields = tuple(name for name in schema.names if name not in used), {*ours, *schema.names}, []
        for name in names:
            called = name
            while name in ours and called in taken:
                called = f"input_{called}"
            taken.add(called)
            fields.append(schema.field(name).with_name(called))
        return Carried(names, tuple(fields))

    @property
    def called(self) -> list[str]:
        return [field.name for field in self.fields]

    def onto(self, table: pa.Table, columns: Sequence[Any]) -> pa.Table:
        """The table with these columns behind its own."""
        for field, column in zip(self.fields, columns, strict=True):
            table = table.append_column(field, column)
        return table

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The columns of rows as they were read; where a row has none it is null."""
        typed = list(zip(self.names, (field.type for field in self.fields), strict=True))
        return [pa.array([cell(row.get(name), kind) for row in rows], kind) for name, kind in typed]


def with_carried(tables: Iterator[pa.Table], corpus: Corpus) -> Iterator[pa.Table]:
    """Verdicts on a corpus with its columns behind theirs, all but id and text."""
    first = next(tables)
    carried = Carried.of(corpus.schema, first.column_names, ("id", "text"))
    if not carried.names:
        yield from chain([first], tables)
        return
    for rows, verdicts in side_by_side(corpus(), chain([first], tables)):
        yield carried.onto(verdicts, [rows[name] for name in carried.names])


def side_by_side(tables: Iterator[pa.Table], others: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Each table with the rows of `others` that belong to it: the same rows in the same order, however they are cut."""
    waiting = next(others)
    for table in tables:
        while waiting.num_rows < table.num_rows:
            waiting = pa.concat_tables([waiting, next(others)], promote_options="permissive")
        yield table, waiting.slice(0, table.num_rows)
        waiting = waiting.slice(table.num_rows)
    if left := waiting.num_rows + sum(other.num_rows for other in others):
        raise ContractError(f"{left} verdicts belong to no row: the input changed while it was read")


def note_types(found: Types, row: Mapping[str, Any]) -> None:
    """Remember of what type the values of a row are, or its columns where it is a schema by names."""
    for name, value in row.items():
        found.setdefault(name, set()).add(value if isinstance(value, pa.DataType) else _of_value(value))


def columns_of(path: Path) -> pa.Schema:
    """What the rows of a file, or of the files below a folder, have as columns; suites and plain documents have none."""
    found: Types = {}
    root = path if path.is_dir() else path.parent
    for file in files_of(path):
        if (columns := parquet_columns(file, root)) is not None:
            note_types(found, {} if is_suite_columns(columns) else columns)
        elif is_tabular(file.name):
            for record in read_file(file, root):
                note_types(found, record.parsed or {})
    return schema_of(found)


def schema_of(found: Types, strings: Collection[str] = ()) -> pa.Schema:
    fields: list[Any] = [pa.field(name, pa.string() if name in strings else _common_type(types)) for name, types in found.items()]
    return pa.schema(fields)


def _common_type(types: Iterable[Any]) -> Any:
    """The type that holds all values of these types, or that of their JSON."""
    known: list[Any] = [pa.schema([pa.field("value", kind)]) for kind in sorted(types, key=str) if kind is not None]
    try:
        return pa.unify_schemas(known, promote_options="permissive").field(0).type if known else pa.string()
    except pa.ArrowException:
        return pa.string()


def _of_value(value: Any) -> Any:
    """The type of a JSON value; an integer that 64 bits cannot hold is kept as text."""
    if value is None:
        return None
    if isinstance(value, str | list | dict) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        return pa.string()
    return _OF_JSON.get(type(value)) or pa.scalar(value).type


def cell(value: Any, kind: Any) -> Any:
    """A value of a row as one of a column of this type."""
    if value is None or kind != pa.string() or isinstance(value, str):
        return float(value) if isinstance(value, int) and kind == pa.float64() else value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | bool | int | float) else str(value)
