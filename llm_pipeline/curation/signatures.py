"""MinHash signatures: what makes near-duplicates findable without comparing all pairs (Broder 1997).

The 5-word shingles of the normalised text are hashed once to 64 bits; permutation p of the 32 upper bits x is `p * x` modulo 2^32
(multiply-shift, Dietzfelbinger et al. 1997), so a signature costs one multiplication and one minimum for each shingle and number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_pipeline.curation.word_hashes import Bounds, Hashes, Words, groups, mix, normalise, word_hashes

__all__ = ["jaccard", "normalise", "shingles", "sign", "signature_matrix"]

PERMUTATIONS = 128
SHINGLE_WORDS = 5
SIGNATURE_TYPE: Any = pa.list_(pa.uint32(), PERMUTATIONS)
SCHEMA = pa.schema([("id", pa.string()), ("text_hash", pa.uint64()), ("signature", SIGNATURE_TYPE)])
Matrix = NDArray[np.uint32]
_FACTORS = np.frombuffer(hashlib.shake_128(b"permutations").digest(4 * PERMUTATIONS), dtype="<u4") | np.uint32(1)
"""Odd, and the same on every machine and for ever, because signatures are stored."""
_STEP = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Shingled:
    """The shingles of several texts (repeated ones too) as 64-bit hashes; text i has those from `bounds[i]` to `bounds[i + 1]`."""

    hashes: Hashes
    bounds: Bounds
    text_hashes: Hashes
    """Of all words in their order; 0 for a text without words."""


def shingles(normalised: str, n: int = SHINGLE_WORDS) -> frozenset[str]:
    """All runs of `n` words; a shorter text is its own single shingle, an empty one has none."""
    words = normalised.split(" ") if normalised else []
    return frozenset(" ".join(words[i : i + n]) for i in range(max(len(words) - n + 1, min(len(words), 1))))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared part of two sets of shingles; 0 for two empty ones, which are no duplicates of anything."""
    if not a or not b:
        return 0.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def runs(hashes: Hashes, n: int) -> Hashes:
    """A hash for the run of `n` words that begins at each word; the last `n - 1` runs are incomplete and mean nothing."""
    total = hashes.copy()
    for i in range(1, n):
        total *= _STEP
        total[:-i] += hashes[i:]
    return mix(total)


def shingle(words: Words) -> Shingled:
    """The hashes of what `shingles` answers for each text."""
    starts, ends = words.bounds[:-1], words.bounds[1:]
    counts = ends - starts
    hashes = runs(words.hashes, SHINGLE_WORDS)
    first = np.flatnonzero(counts)
    texts = np.zeros(len(counts), dtype=np.uint64)
    if len(first):
        position = np.arange(len(hashes), dtype=np.uint64) - np.repeat(starts, counts).astype(np.uint64)
        ordered = words.hashes * (position * _STEP | np.uint64(1))
        texts[first] = np.add.reduceat(ordered ^ (ordered >> np.uint64(31)), starts[first])
        texts[first] = mix(texts[first] + counts[first].astype(np.uint64)) | np.uint64(1)
    whole = np.ones(len(hashes), dtype=bool)
    for i in range(1, SHINGLE_WORDS):
        incomplete = ends - i
        whole[incomplete[incomplete >= starts]] = False
    short = np.flatnonzero((counts > 0) & (counts < SHINGLE_WORDS))
    whole[starts[short]] = True
    hashes[starts[short]] = texts[short]
    sizes = np.where(counts < SHINGLE_WORDS, np.minimum(counts, 1), counts - SHINGLE_WORDS + 1)
    return Shingled(hashes[whole], np.concatenate([[0], np.cumsum(sizes)]), texts)


def signatures(shingled: Shingled) -> Matrix:
    """An (n, 128) array; a text without words has the largest number everywhere."""
    starts = shingled.bounds[:-1]
    filled = np.flatnonzero(np.diff(shingled.bounds))
    matrix = np.full((PERMUTATIONS, len(starts)), np.iinfo(np.uint32).max, dtype=np.uint32)
    upper = (shingled.hashes >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(upper)
    for factor, row in zip(_FACTORS, matrix, strict=True):
        np.multiply(upper, factor, out=permuted)
        if len(filled):
            row[filled] = np.minimum.reduceat(permuted, starts[filled])
    return np.ascontiguousarray(matrix.T)


def sign(ids: Sequence[str], texts: Sequence[str]) -> pa.Table:
    """Columns id, text_hash (of the normalised text) and signature; a text without words gets hash 0 and an all-maximum signature."""
    parts = [shingle(word_hashes(group)) for group in groups(pa.array(texts, pa.large_string()))]
    matrix = np.concatenate([np.empty((0, PERMUTATIONS), np.uint32), *map(signatures, parts)])
    hashes = np.concatenate([np.empty(0, np.uint64), *(part.text_hashes for part in parts)])
    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.uint32()), PERMUTATIONS)
    return pa.Table.from_arrays([pa.array(ids, pa.string()), pa.array(hashes, pa.uint64()), column], schema=SCHEMA)


def signature_matrix(table: pa.Table) -> Matrix:
    """The signatures of a table as an (n, 128) array."""
    column: Any = table["signature"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(), dtype=np.uint32).reshape(-1, PERMUTATIONS)
