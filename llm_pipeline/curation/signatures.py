"""MinHash signatures: what makes near-duplicates findable without comparing all pairs (Broder 1997).

The text is normalised to lower-case alphanumeric words, its 5-word shingles hashed by 128 permutations, in Daft.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

PERMUTATIONS = 128
SHINGLE_WORDS = 5
SEED = 1
SIGNATURE_TYPE: Any = pa.list_(pa.uint32(), PERMUTATIONS)
SCHEMA = pa.schema([("id", pa.string()), ("text_hash", pa.uint64()), ("signature", SIGNATURE_TYPE)])
_WORD = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """Lower-case words of letters and digits with single spaces: what is compared, so case, accents' form and punctuation are not."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


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


def sign(ids: Sequence[str], texts: Sequence[str]) -> pa.Table:
    """Columns id, text_hash (of the normalised text) and signature; a text without words gets hash 0 and an all-maximum signature."""
    import daft

    if not ids:
        return SCHEMA.empty_table()
    frame = daft.from_pydict({"id": list(ids), "text": [normalise(text) for text in texts]})
    column = daft.col("text")
    signed = frame.select(
        daft.col("id"),
        daft.col("text"),
        column.hash().alias("text_hash"),
        column.minhash(num_hashes=PERMUTATIONS, ngram_size=SHINGLE_WORDS, seed=SEED, hash_function="xxhash3_64").alias("signature"),
    ).to_arrow()
    empty = np.asarray([text == "" for text in signed["text"].to_pylist()], dtype=bool)
    hashes = np.where(empty, np.uint64(0), signed["text_hash"].combine_chunks().to_numpy(zero_copy_only=False))
    flat = signed["signature"].combine_chunks().flatten().to_numpy().reshape(-1, PERMUTATIONS).copy()
    flat[empty] = np.iinfo(np.uint32).max
    columns = [signed["id"].cast(pa.string()).combine_chunks(), pa.array(hashes, pa.uint64()), _signatures(flat)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _signatures(matrix: np.ndarray[tuple[int, int], np.dtype[np.uint32]]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.uint32()), PERMUTATIONS)


def signature_matrix(table: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """The signatures of a table as an (n, 128) array."""
    column: Any = table["signature"].combine_chunks()
    return np.asarray(column.flatten().to_numpy(), dtype=np.uint32).reshape(-1, PERMUTATIONS)
