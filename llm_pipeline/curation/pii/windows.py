"""Where to look: a Rust regex finds the few places of a text that may hold personal data, so that Python reads only those.

An anchor is a regex that Rust and Python read alike and that holds no assertion (no `\\b`, `^`, lookaround): then the leftmost place
where a matched string occurs after the previous match is where it matched, which turns the strings polars gives back into offsets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

Found = tuple[int, int, float, str, str]
"""Start, end, score, entity, recogniser."""
_FEW, _SHORT = 40, 2000
"""So few and short texts are searched by Python, which costs less than handing them to polars (but is quadratic on "AAAA...")."""


@dataclass(frozen=True)
class Finder:
    """`find(text, low, high)` yields values inside `text[low:high]`; each lies within `before` and `after` characters of an anchor."""

    anchor: str
    find: Callable[[str, int, int], Iterator[Found]]
    before: int = 80
    after: int = 80
    worth: Callable[[str], bool] | None = None
    """A cheap look at the matched string that spares the window where it can hold nothing."""


def windows(finders: Sequence[Finder], texts: Sequence[str]) -> Iterator[tuple[Finder, int, int, int]]:
    """(finder, text number, low, high) of the joined neighbourhoods of the anchors' matches, in order for each finder."""
    for finder, found in zip(finders, _matches([finder.anchor for finder in finders], texts), strict=True):
        for i, matched in found:
            yield from ((finder, i, low, high) for low, high in _places(finder, texts[i], matched))


def _places(finder: Finder, text: str, matched: Sequence[str]) -> Iterator[tuple[int, int]]:
    at, begun, ended = 0, 0, -1
    for value in matched:
        start = text.index(value, at)
        at = start + len(value)
        if finder.worth and not finder.worth(value):
            continue
        low, high = max(0, start - finder.before), min(len(text), at + finder.after)
        if ended < 0:
            begun = low
        elif low > ended:
            yield begun, ended
            begun = low
        ended = high
    if ended >= 0:
        yield begun, ended


def _matches(anchors: Sequence[str], texts: Sequence[str]) -> Iterator[Iterable[tuple[int, Sequence[str]]]]:
    """For each anchor the texts that it matches and the strings that it matched there."""
    if len(texts) <= _FEW and all(len(text) <= _SHORT for text in texts):
        for pattern in map(_compiled, anchors):
            yield [(i, matched) for i, text in enumerate(texts) if (matched := pattern.findall(text))]
        return
    column = pl.col("text").str
    found = pl.DataFrame({"text": texts}, {"text": pl.String}).select(column.extract_all(a).alias(str(k)) for k, a in enumerate(anchors))
    for series in found.iter_columns():
        lists = series.to_arrow()
        offsets, values = lists.offsets.to_numpy(), lists.values.to_pylist()
        yield [(int(i), values[offsets[i] : offsets[i + 1]]) for i in np.flatnonzero(np.diff(offsets))]


def cased(words: str) -> str:
    """The words (separated by |) in lower case, capitalised and in capitals: Rust finds plain literals ten times faster than (?i)."""
    return "|".join(dict.fromkeys(form for word in words.split("|") for form in (word, word[:1].upper() + word[1:], word.upper())))


@lru_cache(maxsize=256)
def _compiled(anchor: str) -> re.Pattern[str]:
    return re.compile(anchor)
