"""Duplicates in a corpus of any size: exact ones by hash, near ones by banded MinHash, every pair verified on its shingles.

    equal hashes collapse -> bands -> pairs inside a window of each bucket -> estimate -> exact Jaccard -> clusters -> what stays

A removed document always names a kept one that it truly matches. Of several copies the one of the earliest day stays, of the
same day the one with the freest licence, then the longest, then the one with the smallest id; so nothing depends on the order
of rows, on how the corpus is cut into tables, or on the order in which days arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llm_pipeline.curation.dedup_shingles import Numbers
from llm_pipeline.curation.dedup_sketches import Scores, Sketches
from llm_pipeline.curation.word_hashes import Hashes
from llm_pipeline.errors import InputError

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches

WINDOW = 16
PART = 1 << 18
"""About so many keys of a band are sorted at a time, or a sixteenth of them."""
PAIRS = 1 << 19
"""About so many pairs may wait until they are compared."""
THRESHOLD = 0.7
LOWEST, HIGHEST = 0.5, 1.0
KEPT, EXACT, NEAR, SEMANTIC = range(4)
REASONS = ("kept", "exact_duplicate", "near_duplicate", "semantic_duplicate")
_FIELDS: dict[str, Any] = {"id": pa.string(), "cluster_id": pa.string(), "keep": pa.bool_(), "reason": pa.string()}
SCHEMA: Any = pa.schema(_FIELDS | {"kept_id": pa.string(), "jaccard": pa.float64()})


@dataclass
class Verdicts:
    """What was decided, by number of row."""

    reason: NDArray[np.int8]
    """Place in REASONS."""
    kept: Numbers
    """The kept document that a row equals or resembles, itself when it stays."""
    cluster: Numbers
    """The first document of its cluster by the rule of keeping."""
    jaccard: Scores
    """With the kept document; NaN where there is none or where only the meaning is the same."""


def dedup_batches(batches: Batches, *, threshold: float = THRESHOLD, scratch: Path, semantic: float | None = None) -> Iterator[pa.Table]:
    """Verdicts (SCHEMA) on all rows, in their order, in the tables of the input.

    `threshold` is the Jaccard similarity of 5-word shingles from which on a document is a near-duplicate, `semantic` the cosine of
    embeddings from which on one of the remaining documents is the same in other words (None: not looked at). Temporary files of
    about one and a half times the text go to a new folder under `scratch`. Rows without any word are never duplicates.
    """
    if not LOWEST <= threshold <= HIGHEST:
        raise InputError(f"threshold: received {threshold}, expected a Jaccard similarity from {LOWEST} to {HIGHEST}")
    if semantic is not None and not 0 < semantic <= 1:
        raise InputError(f"semantic: received {semantic}, expected a cosine above 0 and at most 1")
    return _dedup(batches, threshold, scratch, semantic)


def _dedup(batches: Batches, threshold: float, scratch: Path, semantic: float | None) -> Iterator[pa.Table]:
    with Sketches(scratch, threshold) as sketches:
        for table in batches():
            sketches.add(table)
        verdicts = decide(sketches)
        if semantic is not None:
            from llm_pipeline.curation.semantic import remove_same_meaning

            remove_same_meaning(batches, sketches, verdicts, semantic)
        yield from tables(sketches, verdicts) if len(verdicts.kept) else [SCHEMA.empty_table()]


def decide(sketches: Sketches, left_out: Numbers | None = None) -> Verdicts:
    """Exact and near duplicates of all rows that were added; those left out are compared with nothing."""
    sketches.finish()
    compared = sketches.hashes != 0
    compared[[] if left_out is None else left_out] = False
    first, text_of = np.unique(np.where(compared, sketches.hashes, 0), return_index=True, return_inverse=True)[1:]
    cluster = clusters(sketches, first, int(not compared.all()))[text_of]
    members = np.flatnonzero((np.bincount(cluster)[cluster] > 1) & compared)
    text, root = (np.unique(numbers[members], return_inverse=True)[1] for numbers in (text_of, cluster))
    del first, text_of, cluster, compared
    rows = np.arange(len(sketches.hashes))
    verdicts = Verdicts(np.zeros(len(rows), dtype=np.int8), rows, rows.copy(), np.full(len(rows), np.nan))
    if len(members):
        _judge(sketches, verdicts, members, text, root)
    return verdicts


def _judge(sketches: Sketches, verdicts: Verdicts, members: Numbers, text: Numbers, root: Numbers) -> None:
    """Decide on rows that have company: `text` and `root` number their texts and their clusters from 0."""
    ranked = ranks(sketches, members)
    best, head = _first(text[ranked], ranked), _first(root[ranked], ranked)
    twin, score = twins(sketches, members[best], root[best], text[ranked[best[text[ranked]] == ranked]])
    kept = members[best[np.where(twin[text] >= 0, twin[text], text)]]
    verdicts.kept[members], verdicts.cluster[members] = kept, members[head[root]]
    verdicts.jaccard[members] = np.where(kept == members, np.nan, score[text])
    verdicts.reason[members] = np.where(kept == members, KEPT, np.where(twin[text] >= 0, NEAR, EXACT))


def _first(groups: Numbers, ranked: Numbers) -> Numbers:
    """For each group the first of the ranked numbers that belongs to it; `groups` are those of the ranked."""
    found = np.empty(int(groups.max()) + 1, dtype=np.int64)
    found[groups[::-1]] = ranked[::-1]
    return found


def clusters(sketches: Sketches, first: Numbers, skipped: int) -> Numbers:
    """For each text (in the order of hashes; `first` is a row that has it) the smallest text of its cluster.

    Buckets are walked in the order of hashes, which only the texts decide; pairs that are already connected are not compared,
    so a crowd of near copies costs a few comparisons each.
    """
    forest, found, number = Forest(len(first)), [np.empty(0, dtype=np.int64)], len(first)
    for order, keys in _buckets(sketches, first, skipped) if number > 1 else ():
        for step in range(1, WINDOW):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(same):
                break
            a, b = order[same], order[same + step]
            apart = np.flatnonzero(forest.roots(a) != forest.roots(b))
            apart = apart[sketches.likely(first[a[apart]], first[b[apart]])]
            found.append(a[apart] * number + b[apart])
        if sum(map(len, found)) > PAIRS:
            found = [np.unique(np.concatenate(found))]
        if len(found[0]) > PAIRS // 2:
            _connect(sketches, forest, first, found.pop())
            found = [np.empty(0, dtype=np.int64)]
    _connect(sketches, forest, first, np.unique(np.concatenate(found)))
    return forest.roots(np.arange(number))


def _buckets(sketches: Sketches, first: Numbers, skipped: int) -> Iterator[tuple[Numbers, Hashes]]:
    """Texts that share a band with another one and their keys, in the order of keys and then of hashes; a part of a band at a time."""
    parts = min(16, -(-len(first) // PART))
    for band in range(sketches.bands.number):
        keys = sketches.keys(band)[first]
        part = ((keys >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.uint8)
        for number in range(parts):
            texts = np.flatnonzero(part == number)
            texts = texts[texts >= skipped]
            texts = texts[np.argsort(keys[texts], kind="stable")]
            texts = texts[_repeated(keys[texts])]
            yield texts, keys[texts]


def _connect(sketches: Sketches, forest: Forest, first: Numbers, pairs: Numbers) -> None:
    """Join the texts of pairs (as one number each) that are truly similar; what hangs together is compared together."""
    a, b = np.divmod(pairs, len(first))
    texts = np.unique([a, b])
    possible = Forest(len(texts))
    possible.join(texts.searchsorted(a), texts.searchsorted(b))
    groups = possible.roots(np.arange(len(texts)))
    sketches.shingles.arrange(first[texts], groups)
    order = np.argsort(groups[texts.searchsorted(a)], kind="stable")
    for left, right in zip(a[order].tolist(), b[order].tolist(), strict=True):
        apart = forest.root(left) != forest.root(right)
        if apart and sketches.shingles.jaccard(int(first[left]), int(first[right])) >= sketches.threshold:
            forest.link(left, right)


def _repeated(ordered: Hashes) -> NDArray[np.bool_]:
    same = np.concatenate([[False], ordered[1:] == ordered[:-1], [False]])
    return same[1:] | same[:-1]


class Forest:
    """Union-find over numbers; the root of a set is its smallest member."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def roots(self, nodes: Numbers) -> Numbers:
        found = self._parent[nodes]
        while not np.array_equal(above := self._parent[found], found):
            found = above
        self._parent[nodes] = found
        return found

    def join(self, a: Numbers, b: Numbers) -> None:
        """Merge the set of a[i] with that of b[i], for all i."""
        while len(a):
            left, right = self.roots(a), self.roots(b)
            apart = left != right
            np.minimum.at(self._parent, np.maximum(left, right)[apart], np.minimum(left, right)[apart])
            a, b = a[apart], b[apart]

    def root(self, node: int) -> int:
        while (above := int(self._parent[node])) != node:
            self._parent[node] = self._parent[above]
            node = above
        return node

    def link(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent[high] = low


def ranks(sketches: Sketches, members: Numbers) -> Numbers:
    """The order of the members (numbers of rows, ascending) by the rule of keeping."""
    wanted, parts, done = np.zeros(len(sketches.hashes), dtype=bool), [], 0
    wanted[members] = True
    for table in sketches.tables():
        parts.append(table.filter(pa.array(wanted[done : done + table.num_rows])))
        done += table.num_rows
    keys = pa.concat_tables(parts).append_column("text", pa.array(sketches.hashes[members]))
    by: Any = [("day", "ascending"), ("licence", "ascending"), ("length", "descending"), ("id", "ascending"), ("text", "ascending")]
    return np.asarray(pc.sort_indices(keys, sort_keys=by), dtype=np.int64)


def twins(sketches: Sketches, best: Numbers, root: Numbers, ranked: Numbers) -> tuple[Numbers, Scores]:
    """For each removed text the first kept one of its cluster that it matches (else -1), and how well.

    `ranked` are texts by the rule of keeping. The first undecided text of every cluster stays and takes those that match it; a
    link of a chain that matches no kept one stays in a later round.
    """
    twin, score = np.full(len(root), -1), np.ones(len(root))
    ranked = ranked[np.bincount(root[ranked], minlength=len(root))[root[ranked]] > 1]
    ranked = ranked[np.argsort(root[ranked], kind="stable")]
    sketches.shingles.arrange(best[ranked], root[ranked])
    while len(ranked):
        _, at, cluster = np.unique(root[ranked], return_index=True, return_inverse=True)
        heads = ranked[at][cluster]
        undecided = heads != ranked
        ranked, heads = ranked[undecided], heads[undecided]
        found = sketches.similar(best[heads], best[ranked])
        match = found >= sketches.threshold
        twin[ranked[match]], score[ranked[match]] = heads[match], found[match]
        ranked = ranked[~match]
    return twin, score


def tables(sketches: Sketches, verdicts: Verdicts, reasons: Sequence[str] = REASONS) -> Iterator[pa.Table]:
    """SCHEMA, in the tables that were added; `reasons` are the names of the codes, of which the first means kept."""
    rows = np.arange(len(verdicts.kept))
    named = np.unique(np.concatenate([verdicts.kept[verdicts.kept != rows], verdicts.cluster[verdicts.cluster != rows]]))
    names, done = _ids(sketches, named), 0
    words = pa.array(reasons, pa.string())
    for table in sketches.tables():
        part = slice(done, done + table.num_rows)
        cluster, kept = (_named(names, named, numbers[part], rows[part]) for numbers in (verdicts.cluster, verdicts.kept))
        places: Any = pa.array(verdicts.reason[part])
        scores = pa.array(verdicts.jaccard[part], mask=np.isnan(verdicts.jaccard[part]))
        ids: Any = table["id"]
        columns = [ids, pc.coalesce(cluster, ids), pc.equal(places, pa.scalar(KEPT)), words.take(places), kept, scores]
        yield pa.Table.from_arrays(columns, schema=SCHEMA)
        done = part.stop


def _named(names: Any, named: Numbers, numbers: Numbers, rows: Numbers) -> Any:
    """The id of each number; null where it is the row itself."""
    return names.take(pa.array(np.searchsorted(named, numbers), mask=numbers == rows))


def _ids(sketches: Sketches, rows: Numbers) -> Any:
    """The ids of some rows (ascending)."""
    parts: list[Any] = [pa.array([], pa.string())]
    done = 0
    for table in sketches.tables():
        start, end = np.searchsorted(rows, [done, done + table.num_rows])
        parts.append(table["id"].combine_chunks().take(rows[start:end] - done))
        done += table.num_rows
    return pa.concat_arrays(parts)
