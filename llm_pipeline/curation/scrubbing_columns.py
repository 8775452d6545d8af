"""Columns beside the text without personal data: a value is read under its column's name, as in a table, and replaced as the policy says.

What cannot hold a placeholder (a number, a date) becomes null. Values inside lists, structs, maps and JSON count like others; truth
values and binary data are not looked at.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from llm_pipeline.curation.pii import PiiPolicy, scan_texts, scrub_texts

Put = Callable[[str, Any], Any]
"""What a value becomes that is called so."""
_LONGEST = 64
"""Characters of a name that are read with a value."""
_SILENT = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_time,
    pa.types.is_duration,
)


def scrub_columns(table: pa.Table, names: Sequence[str], policy: PiiPolicy) -> tuple[pa.Table, list[Counter[str]]]:
    """The table with these columns scrubbed, and by row how many values changed of which column."""
    ids = list(map(str, table["id"].to_pylist()))
    changed: list[Counter[str]] = [Counter() for _ in ids]
    reader = _Reader(policy, ids)
    for name in names:
        at = table.schema.get_field_index(name)
        field, column = table.schema.field(at).with_nullable(True), table.column(at)
        if _may_speak(field.type):
            rows = reader.clean(name, column, changed)
            table = table.set_column(at, field, column if rows is None else pa.array(rows, field.type))
    return table, changed


class _Reader:
    """Looks at values under their names; equal ones once."""

    def __init__(self, policy: PiiPolicy, ids: Sequence[str]) -> None:
        self.policy, self.ids = policy, ids
        self._heads: dict[str, str] = {}

    def clean(self, name: str, column: Any, changed: Sequence[Counter[str]]) -> list[Any] | None:
        """The column's values without personal data; None when they had none."""
        rows, touched = _values(column)
        for row, became in self._replacements(name, rows).items():
            touched[row] = 0
            rows[row] = _mapped(name, rows[row], self._putting(became, touched, row))
        for row, number in touched.items():
            changed[row][name] += number
        return rows if touched else None

    def _replacements(self, name: str, rows: Sequence[Any]) -> dict[int, dict[str, str]]:
        """By row what becomes of what its values say, where that changes."""
        said: dict[str, dict[int, None]] = {}

        def note(row: int) -> Put:
            def put(called: str, value: Any) -> Any:
                said.setdefault(self._said(called, value), {})[row] = None
                return value

            return put

        for row, value in enumerate(rows):
            _mapped(name, value, note(row))
        said.pop("", None)
        texts = list(said)
        found = sorted({span.text for span in scan_texts(texts, self.policy)})
        places = [(texts[i], row) for i in found for row in said[texts[i]]]
        clean, _ = scrub_texts([text for text, _ in places], self.policy, [self.ids[row] for _, row in places])
        became: dict[int, dict[str, str]] = {}
        for (text, row), scrubbed in zip(places, clean, strict=True):
            became.setdefault(row, {})[text] = scrubbed
        return became

    def _putting(self, became: dict[str, str], touched: Counter[int], row: int) -> Put:
        def put(called: str, value: Any) -> Any:
            if (text := self._said(called, value)) not in became:
                return value
            touched[row] += 1
            return became[text].removeprefix(self._head(called)) if isinstance(value, str) else None

        return put

    def _said(self, name: str, value: Any) -> str:
        """The value under its name, as a form or a table shows it; nothing of what cannot be personal data."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # numbers with gaps often come as floats
        if isinstance(value, bool) or not isinstance(value, str | int | Decimal | date):
            return ""
        text = f"{value:%Y-%m-%d}" if isinstance(value, datetime) else str(value)
        return text and self._head(name) + text

    def _head(self, name: str) -> str:
        """The name as it stands before a value, unless it is personal data itself."""
        if name not in self._heads:
            head = f"{name[:_LONGEST]}: "
            self._heads[name] = "" if scan_texts([head], self.policy) else head
        return self._heads[name]


def _values(column: Any) -> tuple[list[Any], Counter[int]]:
    """The values; in place of one that Python cannot hold (no UTF-8, a date after the year 9999) null, and in which rows that was."""
    lost: Counter[int] = Counter()
    try:
        return column.to_pylist(), lost
    except (ValueError, OverflowError):
        rows: list[Any] = []
        for row in range(len(column)):
            try:
                rows.append(column[row].as_py())
            except (ValueError, OverflowError):
                rows.append(None)
                lost[row] = 1
        return rows, lost


def _mapped(name: str, value: Any, put: Put, *, json_keys: bool = False) -> Any:
    """The value with all that it is made of put through `put`; a string that is JSON counts as what it says."""
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for key, item in value.items():
            made[_unlike(made, put(name, key)) if json_keys else key] = _mapped(key, item, put, json_keys=json_keys)
        return made
    if isinstance(value, list):
        return [_mapped(name, item, put, json_keys=json_keys) for item in value]
    if isinstance(value, tuple):  # of a map
        return tuple(_mapped(name, item, put) for item in value)
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            said = json.loads(value)
            json.dumps(said, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return put(name, value)
        mapped = _mapped(name, said, put, json_keys=True)
        return value if mapped == said else json.dumps(mapped, ensure_ascii=False)
    return put(name, value)


def _unlike(known: dict[str, Any], name: str) -> str:
    """The name, longer where it is known: several keys may become the same placeholder."""
    while name in known:
        name += "_"
    return name


def _may_speak(kind: Any) -> bool:
    """Whether values of this type may be personal data."""
    if pa.types.is_dictionary(kind):
        return _may_speak(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_may_speak(kind.field(i).type) for i in range(kind.num_fields))
    return not any(is_a(kind) for is_a in _SILENT)
