"""A text as hashed features at its words: the words, their meaning classes, pairs across gaps, and letters of unknown words.

Every feature belongs to a word's place, so the score of any stretch of the text is a difference of two sums.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from struct import Struct
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.serving.guardrails.light_words import LIGHT_WORDS

Ids = NDArray[np.int64]
VERSION = 3
"""Of the features' numbers: weights that were learned for others mean nothing."""
BITS = 20
MOST_WORDS = 4000
NOTHING = 0
"""The feature that counts for nothing."""
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_MIX, _HALF, _REST = np.uint64(0xBF58476D1CE4E5B9), np.uint64(32), np.uint64(64 - BITS)
_SPREAD = 0x9E3779B97F4A7C15
_WHOLE = (1 << 64) - 1
_REACH = 5
"""A feature is of a word and at most the next four."""
_KINDS = (
    *(("word", (0,), 1), ("word", (0, 1), 1), ("word", (0, 1, 2), 1)),
    *(("meaning", (0,), 1), ("meaning", (0, 1), 1), ("meaning", (0, 1, 2), 1)),
    *(("meaning", (0, 2), 2), ("meaning", (0, 3), 2), ("meaning", (0, 4), 2)),
)
"""Kinds of features: of what, of which words counted from its place on, and how many of these must be heavy."""


def _mixed(*numbers: int) -> int:
    """One number of 64 bits for some numbers (the finaliser of SplitMix64, Steele et al. 2014)."""
    found = 0
    for number in numbers:
        found = ((found ^ number) + _SPREAD) & _WHOLE
        found = ((found ^ (found >> 30)) * 0xBF58476D1CE4E5B9) & _WHOLE
        found ^= found >> 27
    return found


_FACTORS = np.zeros((_REACH, 3, len(_KINDS)), np.uint64)
"""A feature's number is a sum of its words' numbers (of the word, of its meaning, and whether it is heavy) times these, mixed."""
_HEAVY = np.zeros((_REACH, len(_KINDS)), np.int64)
_LEAST = np.array([least for _, _, least in _KINDS])
for _k, (_of, _places, _) in enumerate(_KINDS):
    for _place in _places:
        _FACTORS[_place, int(_of == "meaning"), _k] = _mixed(_k, _place) | 1
        _HEAVY[_place, _k] = 1
_FLAT_FACTORS = _FACTORS.reshape(-1, len(_KINDS))
_PACKED = Struct("=QQq").pack
_END = _PACKED(0, 0, -_REACH) * (_REACH - 1)
"""After the last word: what reaches there is no feature."""


@dataclass(frozen=True)
class Meanings:
    """The meaning class of a word, found by the hash of the word (both arrays sorted by it); 0: unknown."""

    words: NDArray[np.uint32]
    classes: NDArray[np.uint16]

    def of(self, word: str) -> int:
        at = int(np.searchsorted(self.words, hashed := word_hash(word)))
        return int(self.classes[at]) if at < len(self.words) and self.words[at] == hashed else 0

    @cached_property
    def look(self) -> Callable[[str], bytes]:
        """The numbers of a word, of its meaning, and whether it is heavy, as an array holds them; remembered, as most words are of a few
        thousand."""
        return lru_cache(maxsize=8192)(self._numbers)

    def _numbers(self, word: str) -> bytes:
        own, kind = _mixed(word_hash(word)), self.of(word)
        return _PACKED(own, _mixed(kind, 1) if kind else own, word.isalnum() and word not in _LIGHT)

    @cached_property
    def letters(self) -> Callable[[str], tuple[int, ...]]:
        """Features of the runs of four letters of a word without a meaning class (other languages, typing errors)."""
        return lru_cache(maxsize=4096)(self._letters)

    def _letters(self, word: str) -> tuple[int, ...]:
        if len(word) < 4 or not word.isalpha() or word in _LIGHT or self.of(word):
            return ()
        padded = f"<{word[:24]}>"
        runs = (padded[i : i + 4] for i in range(len(padded) - 3))
        return tuple(_mixed(crc32(run.encode()), 2) >> (64 - BITS) for run in runs)


@dataclass(frozen=True)
class Features:
    """Feature numbers, which of all that were found they are, and how many words there are."""

    ids: Ids
    chosen: Ids
    words: int
    spelt: Sequence[int]
    """Words that features of letters are of, which were found after all others."""

    @cached_property
    def places(self) -> Ids:
        """Numbers of the words where the features stand (rising but for those of letters)."""
        return np.append(np.repeat(np.arange(self.words), len(_KINDS)), np.array(self.spelt, np.int64)).take(self.chosen)


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
    return features_of(words_of(text), meanings)


def features_of(words: Sequence[str], meanings: Meanings) -> Features:
    """All features of a text but those of light words and signs alone, each where it first stands: a long text that says the same thing
    often says it no louder."""
    ids, spelt = numbers(words, meanings)
    order = ids.argsort(kind="stable")
    ids = ids.take(order)
    first = np.empty(len(ids), bool)
    first[0] = ids[0] != NOTHING
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    return Features(ids[first], order[first], len(words), spelt)


def words_of(text: str) -> list[str]:
    """The words that features are of."""
    return ["<s>", *tokens(text)]


def numbers(words: Sequence[str], meanings: Meanings) -> tuple[Ids, list[int]]:
    """Of each word a feature of each kind (`NOTHING` where there is none), then those of letters with the words that these are of."""
    numbers = np.frombuffer(b"".join([*map(meanings.look, words), _END]), np.uint64)
    around = np.ndarray((len(words), _REACH * 3), np.uint64, numbers, strides=(24, 8))
    mixed = around @ _FLAT_FACTORS
    mixed ^= mixed >> _HALF
    mixed *= _MIX
    mixed >>= _REST
    mixed *= around.view(np.int64)[:, 2::3] @ _HEAVY >= _LEAST
    ids = mixed.view(np.int64).ravel()
    letters = list(map(meanings.letters, words))
    if not any(letters):
        return ids, []
    spelt = [i for i, found in enumerate(letters) for _ in found]
    return np.concatenate([ids, np.array([number for found in letters for number in found])]), spelt
