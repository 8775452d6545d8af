"""Duplicates over all days at once: exact ones by hash, near ones by banded MinHash, every pair verified on the texts.

    equal hashes collapse -> 25 bands of 5 rows -> pairs inside a window of each bucket -> estimate -> exact Jaccard -> clusters

A removed document always names a kept one that it truly matches, and nothing depends on the order of rows or days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llm_pipeline.curation.signatures import jaccard, normalise, shingles
from llm_pipeline.errors import InputError

BANDS, ROWS = 25, 5
WINDOW = 16
THRESHOLD = 0.7
ESTIMATE_FLOOR = 0.58
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F], dtype=np.uint64)
Matrix = np.ndarray[tuple[int, int], np.dtype[np.uint32]]


@dataclass(frozen=True)
class Item:
    """What deduplication needs to know of a document; `key` orders the items, the smallest of a cluster is the earliest."""

    id: str
    key: tuple[str, ...]
    text: str
    text_hash: int


@dataclass(frozen=True)
class Verdict:
    id: str
    cluster_id: str
    keep: bool
    reason: Literal["kept", "exact_duplicate", "near_duplicate"]
    kept_id: str | None = None
    jaccard: float | None = None
    """Of this document's shingles with the kept twin's."""


def deduplicate(items: Sequence[Item], signatures: Matrix, threshold: float = THRESHOLD) -> list[Verdict]:
    """One verdict per item, in the order of keys; `signatures` is (n, 128) in the order of `items`."""
    if len(items) != len(signatures):
        raise InputError(f"deduplication: received {len(items)} documents and {len(signatures)} signatures, expected as many of both")
    order = sorted(range(len(items)), key=lambda i: (items[i].key, items[i].id))
    items, signatures = [items[i] for i in order], signatures[order]
    first = _collapse(items)
    unique = [i for i, representative in enumerate(first) if representative == i and items[i].text_hash]
    sets = {i: shingles(normalise(items[i].text)) for i in unique}
    pairs = {pair: score for pair in candidates(signatures, unique) if (score := jaccard(sets[pair[0]], sets[pair[1]])) >= threshold}
    cluster = _components(len(items), list(pairs))
    twin = _twins(unique, pairs, cluster, sets, threshold)
    return [_verdict(i, items, first, cluster, twin) for i in range(len(items))]


def _verdict(i: int, items: Sequence[Item], first: Sequence[int], cluster: Sequence[int], twin: dict[int, tuple[int, float]]) -> Verdict:
    representative = first[i]
    kept, score = twin.get(representative, (representative, 1.0))
    cluster_id = items[cluster[representative]].id
    if kept == i:
        return Verdict(items[i].id, cluster_id, True, "kept")
    exact = representative != i and kept == representative
    return Verdict(items[i].id, cluster_id, False, "exact_duplicate" if exact else "near_duplicate", items[kept].id, round(score, 4))


def _collapse(items: Sequence[Item]) -> list[int]:
    """For every item the first one with the same text; texts without words (hash 0) equal nothing."""
    seen: dict[int, int] = {}
    return [seen.setdefault(item.text_hash, i) if item.text_hash else i for i, item in enumerate(items)]


def candidates(signatures: Matrix, rows: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs that share a band and whose signatures estimate at least the floor; each row meets at most 15 later ones per bucket."""
    if len(rows) < 2:
        return []
    index = np.asarray(rows)
    picked = signatures[index]
    found = [_bucket_pairs(picked[:, band * ROWS : (band + 1) * ROWS]) for band in range(BANDS)]
    pairs = np.unique(np.concatenate(found), axis=0)
    if not len(pairs):
        return []
    estimate = np.concatenate(
        [(picked[part[:, 0]] == picked[part[:, 1]]).mean(axis=1) for part in np.array_split(pairs, len(pairs) // 20_000 + 1)]
    )
    return [(int(index[a]), int(index[b])) for a, b in pairs[estimate >= ESTIMATE_FLOOR]]


def _bucket_pairs(band: Matrix) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Pairs (a < b) of rows with an equal band at most WINDOW - 1 apart within their bucket (a 64-bit hash of the band)."""
    keys = (band.astype(np.uint64) * _MIX).sum(axis=1, dtype=np.uint64)
    order = np.argsort(keys, kind="stable")
    sorted_buckets = keys[order]
    found = []
    for step in range(1, min(WINDOW, len(order))):
        same = np.flatnonzero(sorted_buckets[step:] == sorted_buckets[:-step])
        if not len(same):
            break
        found.append(np.stack([order[same], order[same + step]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _components(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For every node the smallest node that it is connected with (union-find with path halving)."""
    parent = list(range(n))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(node) for node in range(n)]


def _twins(
    unique: Sequence[int], pairs: dict[tuple[int, int], float], cluster: Sequence[int], sets: dict[int, frozenset[str]], threshold: float
) -> dict[int, tuple[int, float]]:
    """The kept document that each removed one matches best, and how well; a link of a chain that matches no kept one stays."""
    members: dict[int, list[int]] = {}
    for i in unique:
        members.setdefault(cluster[i], []).append(i)
    twins: dict[int, tuple[int, float]] = {}
    for group in members.values():
        kept: list[int] = []
        for i in group:
            scores = [(pairs.get((k, i)) or jaccard(sets[k], sets[i]), -k) for k in kept]
            best, at = max(scores, default=(0.0, 0))
            if best >= threshold:
                twins[i] = (-at, best)
            else:
                kept.append(i)
    return twins
