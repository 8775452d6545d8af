"""A text as hashed features at its words: the words, their meaning classes, pairs across gaps, and letters of unknown words.

Every feature belongs to a word's place, so the score of any stretch of the text is a difference of two sums.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.serving.guardrails.light_words import LIGHT_WORDS

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]
BITS = 18
MOST_WORDS = 4000
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_GAPS = (2, 3, 4)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MASK = np.uint64((1 << BITS) - 1)


@dataclass(frozen=True)
class Meanings:
    """The meaning class of a word, found by the hash of the word (both arrays sorted by it); 0: unknown."""

    words: NDArray[np.uint32]
    classes: NDArray[np.uint16]

    def of(self, hashes: NDArray[np.uint32]) -> NDArray[np.uint64]:
        at = np.minimum(np.searchsorted(self.words, hashes), len(self.words) - 1)
        return np.where(self.words[at] == hashes, self.classes[at], 0).astype(np.uint64)


@dataclass(frozen=True)
class Features:
    """Feature numbers and the places (word numbers) where they stand; `words` counts the places."""

    ids: Ids
    places: Ids
    words: int


def tokens(text: str) -> list[str]:
    """Words, numbers and signs, in lower case and without accents; all numbers are alike."""
    lower = text.lower()
    if not lower.isascii():
        lower = "".join(c for c in unicodedata.normalize("NFD", lower) if not "\u0300" <= c <= "\u036f")
    return ["0" if token[0].isdigit() else token for token in _TOKEN.findall(lower)[:MOST_WORDS]]


_LIGHT = frozenset(token for words in LIGHT_WORDS.values() for token in tokens(" ".join(words)))


def word_hash(word: str) -> int:
    return crc32(word.encode())


def features(text: str, meanings: Meanings) -> Features:
    """All features of a text but those of light words and signs alone, each where it first stands: a long text that says the same thing
    often says it no louder."""
    words = ["<s>", *tokens(text)]
    hashed = np.fromiter((crc32(word.encode()) for word in words), np.uint32, len(words))
    heavy = np.fromiter((word.isalnum() and word not in _LIGHT for word in words), np.bool_, len(words))
    kinds = meanings.of(hashed)
    own = hashed.astype(np.uint64)
    meant = np.where(kinds > 0, kinds + np.uint64(1 << 33), own)
    ids, places = [], []
    for kind, base in ((0, own), (3, meant)):
        pairs = _join(base, base, 1)
        for number, found, kept in (
            (kind + 1, base, heavy),
            (kind + 2, pairs, _either(heavy, 1)),
            (kind + 3, _join(pairs, base[1:], 1), _either(heavy, 1, 2)),
        ):
            ids.append(_number(found[kept[: len(found)]], number))
            places.append(np.flatnonzero(kept[: len(found)]))
    for gap in _GAPS:
        found, kept = _join(meant, meant, gap), _both(heavy, gap)
        ids.append(_number(found[kept[: len(found)]], 7))
        places.append(np.flatnonzero(kept[: len(found)]))
    letters, at = _letters(words, kinds)
    if len(letters):
        ids.append(_number(np.array(letters, np.uint64), 8))
        places.append(np.array(at, np.int64))
    every = np.concatenate(ids)
    first = np.unique(every, return_index=True)[1]
    return Features(every[first], np.concatenate(places)[first], len(words))


def _either(heavy: NDArray[np.bool_], *gaps: int) -> NDArray[np.bool_]:
    """Whether a place or one of those after it by `gaps` has a heavy word, for the places that have them all."""
    n = max(len(heavy) - max(gaps), 0)
    found = heavy[:n].copy()
    for gap in gaps:
        found |= heavy[gap : gap + n]
    return found


def _both(heavy: NDArray[np.bool_], gap: int) -> NDArray[np.bool_]:
    """Whether a place and the one after it by `gap` have heavy words."""
    n = max(len(heavy) - gap, 0)
    return heavy[:n] & heavy[gap : gap + n]


def _join(first: Hashes, second: Hashes, gap: int) -> Hashes:
    if len(second) <= gap:
        return np.zeros(0, np.uint64)
    n = min(len(first), len(second) - gap)
    mixed: Hashes = (first[:n] * np.uint64(0xC2B2AE3D27D4EB4F)) ^ (second[gap : gap + n] * _MIX)
    return mixed ^ (mixed >> np.uint64(29))


def _number(hashes: Hashes, kind: int) -> Ids:
    mixed = (hashes + np.uint64(kind)) * _MIX
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(40)) & _MASK).astype(np.int64)


def _letters(words: Sequence[str], kinds: NDArray[np.uint64]) -> tuple[list[int], list[int]]:
    """Runs of four letters of words without a meaning class (other languages, typing errors)."""
    found, at = [], []
    for i in np.flatnonzero(kinds == 0).tolist():
        word = words[i]
        if len(word) > 3 and word.isalpha() and word not in _LIGHT:
            padded = f"<{word[:24]}>"
            found += [crc32(padded[j : j + 4].encode()) for j in range(len(padded) - 3)]
            at += [i] * (len(padded) - 3)
    return found, at
