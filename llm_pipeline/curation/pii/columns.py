"""Rows under a head: in `name;passport` above `Ann;X1234567`, and in SQL's `(name, passport) VALUES`, the head says what a cell is."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARKS = "|;\t,"
_LINES, _CHARACTERS = 200, 8000
"""How far above a row its head may be."""
_STATEMENT = 2000
"""How far above a row of SQL its columns may be."""
_CELL = 40
"""Characters of a head's longest cell."""


def marks(line: str) -> tuple[int, ...]:
    """How often each mark that may part cells is in a line."""
    return tuple(map(line.count, _MARKS))


@dataclass(frozen=True)
class Head:
    """The cells of a table's head, what parts them, and where the row begins that was asked about."""

    mark: str
    cells: tuple[str, ...]
    row: int

    def above(self, text: str, start: int) -> str:
        """The cell above a value at `start` in the row."""
        column = text.count(self.mark, self.row, start)
        return self.cells[column] if column < len(self.cells) else ""


def head(text: str, at: int) -> Head | None:
    """The head of the table whose row holds place `at`: the lines above with as many marks, the first of them without numbers."""
    if insert := _insert(text, at):
        return insert
    begin = text.rfind("\n", 0, at) + 1
    if not begin:
        return None
    end = text.find("\n", at)
    row = text[begin : end if end >= 0 else len(text)]
    for mark in _MARKS:
        marks = row.count(mark)
        if marks >= (2 if mark == "," else 1) and (first := _first(text, begin, mark, marks)) is not None:
            cells = tuple(cell.strip(' "*') for cell in first.split(mark))
            named = [cell for cell in cells if cell]
            if len(named) > 1 and all(len(cell) <= _CELL and not any(c.isdigit() for c in cell) for cell in named):
                return Head(mark, cells, begin)
    return None


_INSERT = re.compile(r"\(([\w\s,\"`\[\]]{3,400})\)\s{0,20}$")


def _insert(text: str, at: int) -> Head | None:
    """The columns of the INSERT statement of SQL around place `at`."""
    row = text.rfind("(", max(0, at - _STATEMENT), at) + 1
    values = text.rfind("VALUES", max(0, at - _STATEMENT), at) if row else -1
    if not 0 <= values < row or not (listed := _INSERT.search(text, max(0, values - 450), values)):
        return None
    return Head(",", tuple(cell.strip(' "`[]\n') for cell in listed[1].split(",")), row)


def _first(text: str, begin: int, mark: str, marks: int) -> str | None:
    """The first of the lines above `begin` that have as many marks."""
    found, limit = None, max(0, begin - _CHARACTERS)
    for _ in range(_LINES):
        if begin <= limit:
            break
        above = text.rfind("\n", 0, begin - 1) + 1
        line = text[above : begin - 1]
        if line.count(mark) != marks:
            break
        found, begin = line, above
    return found
