"""Where to look: a Rust regex finds the few places of a text that may hold personal data, so that Python reads only those.

An anchor is a regex that Rust and Python read alike and that holds no assertion (no `\\b`, `^`, lookaround): then the leftmost place
where a matched string occurs after the previous match is where it matched, which turns the strings polars gives back into offsets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

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
    digits: bool = False
    """Whether every match of the anchor has a digit, so that a text without one need not be searched."""
    last: int = 0
    """How many characters at the end of a text are searched, where not all are."""


def windows(finders: Sequence[Finder], texts: Sequence[str]) -> Iterator[tuple[Finder, int, int, int]]:
    """(finder, text number, low, high) of the joined neighbourhoods of the anchors' matches, in order for each finder."""
    for finder, found in zip(finders, _matches(finders, texts), strict=True):
        for i, matched, worth in found:
            yield from ((finder, i, low, high) for low, high in _places(finder, texts[i], matched, worth))


def _places(finder: Finder, text: str, matched: Sequence[str], worth: Sequence[bool]) -> Iterator[tuple[int, int]]:
    at, begun, ended = len(text) - finder.last if 0 < finder.last < len(text) else 0, 0, -1
    for value, looked_at in zip(matched, worth, strict=True):
        start = text.index(value, at)
        at = start + len(value)
        if not looked_at:
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


def _matches(finders: Sequence[Finder], texts: Sequence[str]) -> Iterator[Iterable[tuple[int, Sequence[str], Sequence[bool]]]]:
    """For each finder the texts that its anchor matches, the strings that it matched there, and which of them are worth a look."""
    if len(texts) <= _FEW and all(len(text) <= _SHORT for text in texts):
        for finder in finders:
            found = ((i, _compiled(finder.anchor).findall(text[-finder.last :])) for i, text in enumerate(texts))
            yield [(i, matched, [finder.worth is None or finder.worth(value) for value in matched]) for i, matched in found if matched]
        return
    text, frame = pl.col("text"), pl.DataFrame({"text": texts}, {"text": pl.String})
    frame = frame.with_columns(pl.when(text.str.contains_any(list("0123456789"))).then(text).alias("numbers"))
    found = frame.select(_searched(finder).str.extract_all(finder.anchor).alias(str(k)) for k, finder in enumerate(finders))
    for finder, series in zip(finders, found.iter_columns(), strict=True):
        lists = series.to_arrow()
        yield _worth_a_look(finder, np.diff(lists.offsets.to_numpy()), lists.flatten())


def _searched(finder: Finder) -> pl.Expr:
    """Where the anchor is looked for."""
    texts = pl.col("numbers" if finder.digits else "text")
    return texts.str.tail(finder.last) if finder.last else texts


def _worth_a_look(finder: Finder, counts: NDArray[np.int64], strings: Any) -> Iterator[tuple[int, Sequence[str], Sequence[bool]]]:
    """The same out of the number of strings of each text and all strings, without the texts of which no string is worth a look."""
    worth = np.ones(len(strings), np.bool_)
    if finder.worth and len(strings):
        worth = _each(finder.worth, strings)
        upto, ends = np.append(0, np.cumsum(worth)), np.cumsum(counts)
        chosen = upto[ends] > upto[ends - counts]
        kept = np.repeat(chosen, counts)
        counts, strings, worth = np.where(chosen, counts, 0), strings.filter(pa.array(kept)), worth[kept]
    values, flags, rows = strings.to_pylist(), worth.tolist(), np.flatnonzero(counts)
    ends = np.cumsum(counts)[rows]
    for i, start, end in zip(rows.tolist(), (ends - counts[rows]).tolist(), ends.tolist(), strict=True):
        yield i, values[start:end], flags[start:end]


def _each(judge: Callable[[str], bool], strings: Any) -> NDArray[np.bool_]:
    """What is said of each string; equal ones are asked about once."""
    coded = strings.dictionary_encode()
    return np.array([judge(value) for value in coded.dictionary.to_pylist()], np.bool_)[coded.indices.to_numpy()]


def cased(words: str) -> str:
    """The words (separated by |) in lower case, capitalised and in capitals: Rust finds plain literals ten times faster than (?i)."""
    return "|".join(dict.fromkeys(form for word in words.split("|") for form in (word, word[:1].upper() + word[1:], word.upper())))


@lru_cache(maxsize=256)
def _compiled(anchor: str) -> re.Pattern[str]:
    return re.compile(anchor)
