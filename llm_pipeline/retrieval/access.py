"""Who may see which passage: labels on chunks and keys, and the condition that a search puts on its candidates.

The condition is applied before the search ranks anything, so what may not be seen neither appears nor takes a place.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from llm_pipeline.errors import InputError

PUBLIC = "*"
"""The label of chunks that have none of their own: everybody holds it."""


@dataclass(frozen=True)
class Filters:
    """Only passages of these sources and kinds; an empty set stands for all."""

    sources: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()


NO_FILTERS = Filters()


def labels_of(value: Any) -> list[str]:
    """The labels in a cell: a list, its JSON, or names separated by commas; none when empty."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
        except ValueError as error:
            raise InputError(f"labels: received {value!r}, expected names separated by commas, or a JSON list") from error
    if not isinstance(value, Iterable):
        value = [value]
    return sorted({str(label).strip() for label in value} - {""})


def may_see(labels: Collection[str], key: Collection[str]) -> bool:
    """Whether a key with these labels sees a passage with those: a public one, or one that shares a label."""
    return not labels or PUBLIC in labels or bool(set(labels) & set(key))


def condition(labels: Iterable[str], filters: Filters = NO_FILTERS, *, labelled: bool = True) -> str | None:
    """The SQL condition of what a key with `labels` may find; None when everything. `labelled`: whether any chunk has labels."""
    parts = []
    if labelled:
        parts.append(f"array_has_any(labels, [{_listed({PUBLIC, *labels})}])")
    for column, wanted in (("source", filters.sources), ("kind", filters.kinds)):
        if wanted:
            parts.append(f"{column} IN ({_listed(wanted)})")
    return " AND ".join(parts) or None


def _listed(names: Iterable[str]) -> str:
    return ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
