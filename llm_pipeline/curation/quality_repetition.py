"""How much a text repeats itself: Gopher's repetition scores (Rae et al. 2021, table A1) for many texts at once.

An n-gram can only be repeated where the (n-1)-grams in it are, so each length is looked for only where the shorter one was found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from llm_pipeline.curation.quality_view import Bools, Floats, Hashes, Ints, Segments, View, mixed

LONG_ENOUGH = 30
"""Words from which on the share of an n-gram means something."""
TOP = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)


def share(part: Floats, whole: Floats) -> Floats:
    """part / whole, 0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def duplicate_pieces(view: View, pieces: Segments) -> tuple[Floats, Floats]:
    """Shares of a document's pieces, and of the characters in them, that repeat an earlier piece."""
    again = ~_is_first(_by_document(view.hashes(pieces), pieces.doc))
    count = share(view.per_document(pieces.doc[again]), view.per_document(pieces.doc))
    characters = view.per_document(pieces.doc[again], pieces.length[again])
    return count, share(characters, view.per_document(pieces.doc, pieces.length))


def repetition_scores(view: View) -> dict[str, Floats]:
    """By document: `unique_words`, the share of its tokens that are different ones; `top_<n>_gram`, the share of the most frequent
    n-gram that occurs more than twice; `duplicate_<n>_grams`, the share of n-grams that occurred before."""
    tokens = view.tokens
    keys = _by_document(view.token_hashes, tokens.doc)
    first = first_of(keys)
    number = view.per_document(tokens.doc)
    total = view.per_document(tokens.doc, tokens.length)
    different = view.per_document(tokens.doc, first == np.arange(len(first)))
    scores = {"unique_words": np.where(number >= LONG_ENOUGH, share(different, number), 1.0)}
    upto = np.append(0, np.cumsum(tokens.length))
    for found in _repeats(view, keys, first):
        n, doc, lengths = found.n, tokens.doc[found.at], upto[found.at + found.n] - upto[found.at]
        if n in TOP:
            scores[f"top_{n}_gram"] = share(_top(view, doc, found.first, lengths), total) * (number >= LONG_ENOUGH)
        if n in REPEATED:
            scores[f"duplicate_{n}_grams"] = share(_greedy(view, doc, found, lengths), total) * (number >= LONG_ENOUGH)
    return scores


def _by_document(hashes: Hashes, doc: Ints) -> Hashes:
    return mixed(hashes + doc.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93))


def first_of(keys: Hashes) -> Ints:
    """Where the value of every key occurs first: keys are thrown into buckets, and those that lost theirs to another value again."""
    first, bits = np.empty(len(keys), np.int64), max(8, len(keys).bit_length() + 2)
    table = np.empty(1 << bits, np.int64)
    waiting, spread = np.arange(len(keys)), keys
    while len(waiting):
        bucket = (spread >> np.uint64(64 - bits)).view(np.int64)
        table[bucket[::-1]] = waiting[::-1]  # the last one written stays: the earliest
        first[waiting] = winner = table.take(bucket)
        lost = np.flatnonzero(keys.take(winner) != keys.take(waiting))
        waiting, spread = waiting.take(lost), mixed(spread.take(lost) + np.uint64(1))
    return first


def _is_first(keys: Hashes) -> Bools:
    return first_of(keys) == np.arange(len(keys))


@dataclass(frozen=True)
class Repeats:
    """The n-grams that occur again in their document: the first token of each, and which of them is the first of its kind."""

    n: int
    at: Ints
    first: Ints


def _repeats(view: View, keys: Hashes, first: Ints) -> Iterator[Repeats]:
    """The repeats of n tokens for n from 2 on, given the keys of single tokens and where each occurs first."""
    at, doc = np.arange(len(keys)), view.tokens.doc
    for n in range(2, REPEATED[-1] + 1):
        again = np.bincount(first, minlength=len(first))[first] > 1
        at, keys = at[again], keys[again]
        follows = np.flatnonzero(np.diff(at) == 1)  # an n-gram is two (n-1)-grams of a text, one token apart
        follows = follows[doc[at[follows]] == doc[at[follows + 1]]]
        at = at[follows]
        keys = mixed(keys[follows] * np.uint64(0x9FB21C651E98DF25) + view.token_hashes[at + n - 1])
        first = first_of(keys)
        yield Repeats(n, at, first)


def _top(view: View, doc: Ints, first: Ints, lengths: Ints) -> Floats:
    """Characters of the most frequent n-gram by document, the longest of equally frequent ones; 0 below three occurrences."""
    counts = np.bincount(first, minlength=len(first))
    often = np.flatnonzero(counts > 2)
    order = often[np.lexsort((lengths[often], counts[often], doc[often]))]
    last = order[np.flatnonzero(np.diff(doc[order], append=-1))]
    best = np.zeros(view.count)
    best[doc[last]] = counts[last] * lengths[last]
    return best


def _greedy(view: View, doc: Ints, repeats: Repeats, lengths: Ints) -> Floats:
    """Characters in n-grams seen before, from left to right; after a repeat the next n-gram starts behind it."""
    found = np.zeros(view.count)
    bounds = np.append(np.flatnonzero(np.diff(doc, prepend=-1)), len(doc))
    for first, last in pairwise(bounds.tolist()):
        seen: set[int] = set()
        repeated, free = 0, 0
        columns = (column[first:last].tolist() for column in (repeats.at, repeats.first, lengths))
        for position, key, length in zip(*columns, strict=True):
            if position < free:
                continue
            if key in seen:
                repeated += length
                free = position + repeats.n
            else:
                seen.add(key)
        found[doc[first]] = repeated
    return found
