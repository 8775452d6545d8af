"""Where to look: one pass over a text finds the few places that may hold personal data, so that Python reads only those."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llm_pipeline.sieve import places_of

Found = tuple[int, int, float, str, str]
"""Start, end, score, entity, recogniser."""


@dataclass(frozen=True)
class Look:
    """A cheap look that spares windows: what an anchor is part of matches `pattern` and is `worth` one.

    Such a match begins at most `back` characters before the anchor's end.
    """

    pattern: re.Pattern[str]
    worth: Callable[[str], bool]
    back: int

    def places(self, text: str, ends: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Where matches lie that hold one of the ends."""
        at = 0
        for first, last in _pairs(ends):
            at = max(at, first - self.back)
            while at < last and (match := self.pattern.search(text, at)):
                at = match.end()
                if at >= first and self.worth(match.group()):
                    yield match.span()


@dataclass(frozen=True)
class Finder:
    """`find(text, low, high)` yields values inside `text[low:high]`.

    Each lies within `before` and `after` characters of the end of a match of the anchor (a pattern of `llm_pipeline.sieve`), or where
    there is a `look`, of what that is part of.
    """

    anchor: str
    find: Callable[[str, int, int], Iterator[Found]]
    before: int = 80
    after: int = 80
    look: Look | None = None


def windows(finders: Sequence[Finder], texts: Iterable[str]) -> Iterator[tuple[Finder, int, int, int]]:
    """(finder, text number, low, high) of the joined neighbourhoods of the anchors, finder by finder, in the order of texts for each.

    All texts are scanned before the first finder looks at one, so that the automata and Python's patterns don't drive one another out of
    the processor's cache.
    """
    anchors, found = places_of(tuple(finder.anchor for finder in finders)), defaultdict(list)
    for i, text in enumerate(texts):
        for number, ends in anchors.places(text).items():
            found[number].append((i, text, ends))
    for number, places in found.items():
        finder = finders[number]
        yield from ((finder, i, low, high) for i, text, ends in places for low, high in _joined(finder, text, ends))


def _joined(finder: Finder, text: str, ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    begun, ended = 0, -1
    for start, end in finder.look.places(text, ends) if finder.look else _pairs(ends):
        low, high = max(0, start - finder.before), min(len(text), end + finder.after)
        if ended < 0:
            begun = low
        elif low > ended:
            yield begun, ended
            begun = low
        ended = high
    if ended >= 0:
        yield begun, ended


def _pairs(ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(ends[::2], ends[1::2], strict=True)


def any_case(words: str) -> str:
    """The words of an anchor (separated by |, as they are or `cased`), however they are written: compiled small, and as fast."""
    return f"(?i:{'|'.join(dict.fromkeys(words.lower().split('|')))})"


def cased(words: str) -> str:
    """The words (separated by |) in lower case, capitalised and in capitals, which Python finds faster than by ignoring case."""
    return "|".join(dict.fromkeys(form for word in words.split("|") for form in (word, word[:1].upper() + word[1:], word.upper())))
