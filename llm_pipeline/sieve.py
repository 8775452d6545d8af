"""Many patterns in one pass over a text: Hyperscan's automata (Wang et al. 2019) say which of them it holds, and where matches end.

Patterns are written as Hyperscan reads them: of Python's regex without lookaround and back-references, and `\\b`, `\\d`, `\\w` and `\\s`
know ASCII only. Behind a text stand zeros: its end is `\\x00`, not `$`. What a sieve says may be too much, never too little.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import hyperscan

_NEAR = 8
"""Ends of one pattern within so many bytes are one range: a run of characters that all end a match takes no more room than one."""
_TAIL = bytes(64)
"""Zeros behind a text. Without them the library (vectorscan 5.4.12) overlooks matches of some patterns in the last 16 bytes."""
Places = dict[int, "array[int]"]
"""For each pattern that a text holds the first and last end of every range, one after the other."""


class Sieve:
    """Patterns by number, compiled together; any thread may use it."""

    def __init__(self, patterns: Sequence[str], *, caseless: bool = False, places: bool = False) -> None:
        """`places` makes it say where matches end; a sieve without reads a text as bytes, and may leave lookaround out.

        Raises `hyperscan.error` for patterns that it does not understand.
        """
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        once = hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_PREFILTER
        flags = hyperscan.HS_FLAG_UTF8 if places else once
        flags |= hyperscan.HS_FLAG_CASELESS if caseless else 0
        expressions = [pattern.encode() for pattern in patterns]
        self._database.compile(expressions=expressions, ids=list(range(len(patterns))), flags=[flags] * len(patterns))
        self._of_thread = threading.local()

    def held(self, text: str) -> list[int]:
        """Which patterns match somewhere."""
        found: list[int] = []
        self._scan(text.encode("utf-8", "replace"), _note, found)
        return found

    def places(self, text: str) -> Places:
        """Where matches end, of every length, in characters; for a sieve of `places`."""
        data, found = text.encode("utf-8", "replace"), Places()
        self._scan(data, _note_end, found)
        plain = len(data) == len(text) and all(ends[-1] <= len(data) for ends in found.values())
        return found if plain else _in_characters(found, data)

    def _scan(self, data: bytes, note: Callable[[int, int, int, int, Any], None], found: object) -> None:
        self._database.scan(data + _TAIL, note, 0, found, self._scratch())

    def _scratch(self) -> hyperscan.Scratch:
        """Where Hyperscan works, which no two threads may share."""
        try:
            scratch: hyperscan.Scratch = self._of_thread.scratch
        except AttributeError:
            scratch = self._of_thread.scratch = hyperscan.Scratch(self._database)
        return scratch


@lru_cache(maxsize=64)
def places_of(patterns: tuple[str, ...]) -> Sieve:
    """A sieve that says where the matches of these patterns end, compiled once. One that ends with `*` ends in many places."""
    return Sieve(patterns, places=True)


def _note(pattern: int, _start: int, _end: int, _flags: int, found: list[int]) -> None:
    found.append(pattern)


def _note_end(pattern: int, _start: int, end: int, _flags: int, found: Places) -> None:
    """Ends come in ascending order."""
    ends = found.get(pattern)
    if ends is None:
        found[pattern] = array("Q", (end, end))
    elif end - ends[-1] <= _NEAR:
        ends[-1] = end
    else:
        ends.append(end)
        ends.append(end)


def _in_characters(found: Places, data: bytes) -> Places:
    """The same places, counted in characters instead of bytes, and none behind the text."""
    at, passed, characters = 0, 0, {}
    for end in sorted({end for ends in found.values() for end in ends}):
        passed += len(data[at:end].decode())
        characters[end] = passed
        at = end
    return {pattern: array("Q", map(characters.__getitem__, ends)) for pattern, ends in found.items()}
