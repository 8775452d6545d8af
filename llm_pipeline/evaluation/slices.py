"""Parts of a suite that are worth a look of their own: whatever slice columns the rows have, and how long the question is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)
COLUMNS = ("source", "language", "day", "kind")
"""Columns of a row that are slices without being listed under `slices`."""
_LENGTHS = ((8, "1 to 8 words"), (16, "9 to 16 words"), (64, "17 to 64 words"))


def slices_of(row: Row) -> dict[str, str]:
    """`{slice name: value}` of one row: its `slices`, its columns source, language, day and kind, and the question's length."""
    found = {name: str(row[name]) for name in COLUMNS if row.get(name) is not None}
    found |= {str(name): str(value) for name, value in (row.get("slices") or {}).items() if value is not None}
    if row.get("question") and "length" not in found:
        words = len(str(row["question"]).split())
        found["length"] = next((name for most, name in _LENGTHS if words <= most), "65 words or more")
    return found


def by_slice(rows: Iterable[R]) -> dict[tuple[str, str], list[R]]:
    """Rows per (slice name, value), sorted; a slice with one value only tells nothing and is left out."""
    groups: dict[tuple[str, str], list[R]] = {}
    for row in rows:
        for item in slices_of(row).items():
            groups.setdefault(item, []).append(row)
    values = [name for name, _ in groups]
    return {item: groups[item] for item in sorted(groups) if values.count(item[0]) > 1}
