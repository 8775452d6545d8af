"""Many patterns in one pass over a text: Hyperscan's automata (Wang et al. 2019) say which of them it holds.

Patterns are written as Hyperscan reads them: of Python's regex without lookaround and back-references, and `\\b`, `\\d`, `\\w` and `\\s`
know ASCII only. What a sieve says may be too much (lookaround is left out), never too little.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import hyperscan


class Sieve:
    """Patterns by number, compiled together; any thread may use it."""

    def __init__(self, patterns: Sequence[str], *, caseless: bool = False) -> None:
        """Raises `hyperscan.error` for patterns that it does not understand."""
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        flags = hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_PREFILTER
        flags |= hyperscan.HS_FLAG_CASELESS if caseless else 0
        expressions = [pattern.encode() for pattern in patterns]
        self._database.compile(expressions=expressions, ids=list(range(len(patterns))), flags=[flags] * len(patterns))
        self._of_thread = threading.local()

    def held(self, text: str) -> list[int]:
        """Which patterns match somewhere."""
        found: list[int] = []
        self._database.scan(text.encode("utf-8", "replace"), _note, 0, found, self._scratch())  # type: ignore[arg-type]
        return found

    def _scratch(self) -> hyperscan.Scratch:
        """Where Hyperscan works, which no two threads may share."""
        try:
            scratch: hyperscan.Scratch = self._of_thread.scratch
        except AttributeError:
            scratch = self._of_thread.scratch = hyperscan.Scratch(self._database)
        return scratch


def _note(pattern: int, _start: int, _end: int, _flags: int, found: list[int]) -> None:
    found.append(pattern)
