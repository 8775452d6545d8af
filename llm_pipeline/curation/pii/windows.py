"""Where to look: a Rust regex finds the few places of a text that may hold personal data, so that Python reads only those.

An anchor is a regex that Rust and Python read alike and that holds no assertion (no `\\b`, `^`, lookaround): then the leftmost place
where a matched string occurs after the previous match is where it matched, which turns the strings polars gives back into offsets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

Found = tuple[int, int, float, str, str]
"""Start, end, score, entity, recogniser."""
_FEW = 40
"""So many texts are searched by Python, which costs less than handing them to polars."""


@dataclass(frozen=True)
class Finder:
    """`find(text, low, high)` yields values inside `text[low:high]`; each lies within `before` and `after` characters of an anchor."""

    anchor: str
    find: Callable[[str, int, int], Iterator[Found]]
    before: int = 80
    after: int = 80
    worth: Callable[[str], bool] | None = None
    """A cheap look at the matched string that spares the window where it can hold nothing."""


def windows(finder: Finder, texts: Sequence[str], series: pl.Series) -> Iterator[tuple[int, int, int]]:
    """(text number, low, high) of the joined neighbourhoods of the anchor's matches, in order."""
    for i, matched in _matches(finder.anchor, texts, series):
        text, at, open_window = texts[i], 0, (0, -1)
        for value in matched:
            start = text.index(value, at)
            at = start + len(value)
            if finder.worth and not finder.worth(value):
                continue
            low, high = max(0, start - finder.before), min(len(text), at + finder.after)
            if low > open_window[1] >= 0:
                yield i, *open_window
                open_window = (low, high)
            else:
                open_window = (open_window[0] if open_window[1] >= 0 else low, high)
        if open_window[1] >= 0:
            yield i, *open_window


def cased(words: str) -> str:
    """The words (separated by |) in lower case, capitalised and in capitals: Rust finds plain literals ten times faster than (?i)."""
    return "|".join(dict.fromkeys(form for word in words.split("|") for form in (word, word[:1].upper() + word[1:], word.upper())))


def _matches(anchor: str, texts: Sequence[str], series: pl.Series) -> Iterator[tuple[int, list[str]]]:
    """The matched strings of every text that has any."""
    if len(texts) <= _FEW:
        pattern = _compiled(anchor)
        yield from ((i, matched) for i, text in enumerate(texts) if (matched := pattern.findall(text)))
        return
    found = series.str.extract_all(anchor)
    rows = (found.list.len() > 0).arg_true()
    yield from zip(rows.to_list(), found.gather(rows).to_list(), strict=True)


@lru_cache(maxsize=256)
def _compiled(anchor: str) -> re.Pattern[str]:
    return re.compile(anchor)
