"""Phrases of a list in many texts at once: their words are looked up by hash, so that a list costs little however long it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from llm_pipeline.curation.quality_view import SLOTS, Bools, Hashes, Ints, View, hash_of


@dataclass(frozen=True)
class Phrase:
    """A phrase's words by hash, and which of them to look for: the longest, since long words are rare."""

    hashes: Hashes
    key: int


@dataclass(frozen=True)
class Lexicon:
    """Phrases of one or more words; case and punctuation between the words do not matter."""

    phrases: tuple[str, ...]

    @cached_property
    def _hashed(self) -> list[Phrase]:
        split = [re.findall(r"\w+", phrase) for phrase in dict.fromkeys(self.phrases)]
        return [
            Phrase(np.array([hash_of(word) for word in words], np.uint64), max(range(len(words)), key=lambda k: len(words[k])))
            for words in split
        ]

    @cached_property
    def _words(self) -> tuple[Hashes, Ints]:
        """The single words by hash, and their numbers among the phrases."""
        single = [(phrase.hashes[0], number) for number, phrase in enumerate(self._hashed) if len(phrase.hashes) == 1]
        hashes = np.array([word for word, _ in single], np.uint64)
        order = np.argsort(hashes)
        return hashes[order], np.array([number for _, number in single], np.int64)[order]

    @cached_property
    def _sieve(self) -> Bools:
        sieve = np.zeros(SLOTS, np.bool_)
        sieve[[int(phrase.hashes[phrase.key]) % SLOTS for phrase in self._hashed]] = True
        return sieve

    def find(self, view: View) -> tuple[Ints, Ints]:
        """(first token, number of the phrase) of all occurrences, in no order."""
        candidates = np.flatnonzero(self._sieve[view.token_slots])
        key = view.token_hashes[candidates]
        words, numbers = self._words
        nearest = np.minimum(np.searchsorted(words, key), len(words) - 1)
        exact = words[nearest] == key if len(words) else np.zeros(len(key), np.bool_)
        found = [(candidates[exact], numbers[nearest[exact]])]
        for number, phrase in enumerate(self._hashed):
            if len(phrase.hashes) > 1 and len(at := candidates[key == phrase.hashes[phrase.key]]):
                at = _occurrences(view, at, phrase)
                found.append((at, np.full(len(at), number)))
        return np.concatenate([at for at, _ in found]), np.concatenate([numbers for _, numbers in found])

    def present(self, view: View) -> Ints:
        """How many different phrases a document has."""
        present = np.zeros((view.count, len(self._hashed)), np.bool_)
        first, numbers = self.find(view)
        present[view.tokens.doc[first], numbers] = True
        return present.sum(axis=1, dtype=np.int64)

    def counts(self, view: View) -> Ints:
        """Occurrences by document."""
        return np.bincount(view.tokens.doc[self.find(view)[0]], minlength=view.count)


def _occurrences(view: View, keys: Ints, phrase: Phrase) -> Ints:
    """Where a phrase begins, given where its key stands."""
    at = keys - phrase.key
    at = at[(at >= 0) & (at + len(phrase.hashes) <= len(view.tokens))]
    for offset, word in enumerate(phrase.hashes):
        at = at[view.token_hashes[at + offset] == word]
    return at[view.tokens.doc[at] == view.tokens.doc[at + len(phrase.hashes) - 1]]


@cache
def lexicon(phrases: tuple[str, ...]) -> Lexicon:
    """The lexicon of these phrases, hashed once."""
    return Lexicon(phrases)
