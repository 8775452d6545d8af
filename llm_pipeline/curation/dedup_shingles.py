"""The shingles of a corpus on disk, and side by side those that are to be compared, so that memory need not hold them.

Shingles lie there in the order of rows. Similar documents stand anywhere in a corpus, so before pairs are compared their shingles
are copied group by group (one pass over the file, writing a few runs); what is compared then lies close together.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.curation.word_hashes import Hashes

Numbers = NDArray[np.int64]
_REMEMBERED = 1 << 21
"""Shingles of rows that were just compared stay in memory, about so many together."""
_RUN = 1 << 21
"""Groups lie together in runs of about so many shingles (16 MB)."""
_READ = 1 << 19
"""Shingles that are read at a time."""
_BYTES = 8


class Shingles:
    """Two files in a folder: all shingles by row, and those of the rows that `arrange` named last."""

    def __init__(self, folder: Path) -> None:
        self._all, self._near = (open(folder / name, "w+b") for name in ("shingles", "arranged"))  # noqa: SIM115
        self._sizes: list[Numbers] = []
        self._bounds: Numbers = np.zeros(1, dtype=np.int64)
        self._rows: Numbers = np.empty(0, dtype=np.int64)
        self._places: Numbers = np.empty(0, dtype=np.int64)
        self._sets: dict[int, Hashes] = {}
        self._remembered = 0

    def close(self) -> None:
        self._all.close()
        self._near.close()

    def add(self, hashes: Hashes, bounds: Numbers) -> None:
        """The next rows: row i has those from `bounds[i]` to `bounds[i + 1]`."""
        hashes.tofile(self._all)
        self._sizes.append(np.diff(bounds))

    def finish(self) -> None:
        self._all.flush()
        self._bounds = np.concatenate([[0], *self._sizes]).cumsum()
        self._sizes = []

    def arrange(self, rows: Numbers, groups: Numbers) -> None:
        """From now on `jaccard` is asked about these rows, mostly about two of the same group at a time."""
        order = np.argsort(rows)
        rows, groups = rows[order], groups[order]
        sizes = self._bounds[rows + 1] - self._bounds[rows]
        order = np.argsort(groups, kind="stable")
        run = np.empty(len(rows), dtype=np.int64)
        run[order] = sizes[order].cumsum() // _RUN
        order = np.argsort(run, kind="stable")
        ends = sizes[order].cumsum()
        self._rows, self._places = rows, np.empty(len(rows), dtype=np.int64)
        self._places[order] = ends - sizes[order]
        self._sets.clear()
        self._remembered = 0
        for part, hashes in self._read(rows):
            for number in np.unique(run[part]):
                mine = np.flatnonzero(run[part] == number)
                chosen = np.repeat(run[part] == number, sizes[part])
                os.pwrite(self._near.fileno(), hashes[chosen].tobytes(), int(self._places[part][mine[0]]) * _BYTES)

    def _read(self, rows: Numbers) -> Iterator[tuple[slice, Hashes]]:
        """The shingles of the rows (ascending), a stretch of the file at a time."""
        stretch = self._bounds[rows] // _READ
        edges = [0, *(np.flatnonzero(np.diff(stretch)) + 1).tolist(), len(rows)]
        for first, last in pairwise(edges):
            if first == last:
                continue
            low, high = int(self._bounds[rows[first]]), int(self._bounds[rows[last - 1] + 1])
            read = np.frombuffer(os.pread(self._all.fileno(), (high - low) * _BYTES, low * _BYTES), dtype=np.uint64)
            wanted = np.zeros(rows[last - 1] + 1 - rows[first], dtype=bool)
            wanted[rows[first:last] - rows[first]] = True
            yield slice(first, last), read[np.repeat(wanted, np.diff(self._bounds[rows[first] : rows[last - 1] + 2]))]

    def jaccard(self, a: int, b: int) -> float:
        """The similarity of two rows that were arranged."""
        first, second = self._set(a), self._set(b)
        small, large = (first, second) if len(first) < len(second) else (second, first)
        if not len(small):
            return 0.0
        at = np.minimum(large.searchsorted(small), len(large) - 1)
        shared = int(np.count_nonzero(large[at] == small))
        return shared / (len(small) + len(large) - shared)

    def _set(self, row: int) -> Hashes:
        """The different shingles of a row, ascending; those of the last rows that were asked for are remembered."""
        if row not in self._sets:
            size, place = int(self._bounds[row + 1] - self._bounds[row]), int(self._places[self._rows.searchsorted(row)])
            found = np.sort(np.frombuffer(os.pread(self._near.fileno(), size * _BYTES, place * _BYTES), dtype=np.uint64))
            found = found[np.append(found[1:] != found[:-1], True)[: len(found)]]
            if self._remembered > _REMEMBERED:
                self._sets.clear()
                self._remembered = 0
            self._sets[row] = found
            self._remembered += len(found)
        return self._sets[row]
