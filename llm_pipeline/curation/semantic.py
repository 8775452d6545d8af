"""The same in other words: documents whose embeddings are close, after exact and near duplicates have gone (SemDeDup, Abbas et al. 2023).

The vectors of the documents that are left go to a file and are multiplied block by block, so memory stays bounded; the time
grows with the square of their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.curation.dedup import KEPT, SEMANTIC, Verdicts, ranks
from llm_pipeline.curation.dedup_shingles import Numbers
from llm_pipeline.curation.dedup_sketches import Sketches

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches

BLOCK = 2048
PASSAGE_WORDS = 180
"""A document's vector is the mean over its passages of so many words, which an embedding model reads whole."""
Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


def remove_same_meaning(batches: Batches, sketches: Sketches, verdicts: Verdicts, threshold: float, embed: Embed | None = None) -> None:
    """Change the verdicts of kept documents with at least this cosine to an earlier kept one, and of those that named them as twins."""
    left = np.flatnonzero((verdicts.reason == KEPT) & (sketches.hashes != 0))
    if len(left) < 2:
        return
    if embed is None:
        from llm_pipeline.retrieval.embedding import Embedder

        embed = Embedder().embed
    file = sketches.folder / "vectors"
    with open(file, "wb") as out:
        for texts in _texts(batches, left):
            vectors = document_vectors(texts, embed)
            vectors.tofile(out)
    stored = np.memmap(file, dtype=np.float32, mode="r").reshape(len(left), -1)
    order = ranks(sketches, left)
    moved = np.arange(len(verdicts.kept))
    first = first_close(stored, order, threshold)
    moved[left[order]] = np.where(first >= 0, left[order[first]], left[order])
    kept = moved[verdicts.kept]
    changed = kept != verdicts.kept
    verdicts.kept[:], verdicts.reason[changed], verdicts.jaccard[changed] = kept, SEMANTIC, np.nan
    verdicts.cluster[changed] = verdicts.cluster[kept[changed]]


def _texts(batches: Batches, rows: Numbers) -> Iterator[list[str]]:
    """The texts of some rows (ascending), table by table."""
    done = 0
    for table in batches():
        start, end = np.searchsorted(rows, [done, done + table.num_rows])
        if start < end:
            yield [str(text) for text in table["text"].take(rows[start:end] - done).to_pylist()]
        done += table.num_rows


def document_vectors(texts: Sequence[str], embed: Embed) -> Vectors:
    """One vector of length 1 for each text."""
    passages: list[str] = []
    bounds = [0]
    for text in texts:
        words = text.split() or [""]
        passages += [" ".join(words[start : start + PASSAGE_WORDS]) for start in range(0, len(words), PASSAGE_WORDS)]
        bounds.append(len(passages))
    parts = embed(passages)
    means = np.stack([parts[start:end].mean(axis=0) for start, end in pairwise(bounds)])
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def first_close(vectors: Vectors, order: Numbers, threshold: float) -> Numbers:
    """For each place of `order` the first earlier place that stays and is at least so close, or -1 where there is none."""
    first = np.full(len(order), -1)
    for start in range(0, len(order), BLOCK):
        block = vectors[order[start : start + BLOCK]]
        for before in range(0, start, BLOCK):
            undecided = np.flatnonzero(first[start : start + BLOCK] < 0)
            close = _close(block[undecided], vectors[order[before : before + BLOCK]], threshold) & (first[before : before + BLOCK] < 0)
            found = close.any(axis=1)
            first[start + undecided[found]] = before + close[found].argmax(axis=1)
        within = _close(block, block, threshold)
        for i in np.flatnonzero(first[start : start + BLOCK] < 0):
            earlier = np.flatnonzero(within[i, :i] & (first[start : start + i] < 0))
            if len(earlier):
                first[start + i] = start + earlier[0]
    return first


def _close(a: Vectors, b: Vectors, threshold: float) -> NDArray[np.bool_]:
    """Rounding may cost equal vectors a millionth."""
    return np.asarray(a @ b.T >= threshold - 1e-6)
