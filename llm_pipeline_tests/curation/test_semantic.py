"""Semantic duplicates: what is close to an earlier kept document goes, and nothing that is removed names a removed twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation import semantic
from llm_pipeline.curation.dedup import dedup_batches
from llm_pipeline.curation.semantic import Vectors, document_vectors, first_close


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 1000), st.floats(0.2, 0.99))
def test_blocks_decide_what_one_document_after_another_would(n: int, block: int, seed: int, threshold: float) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.random.default_rng(seed + 1).permutation(n)
    cosines = (vectors[order].astype(float) @ vectors[order].T.astype(float)).round(5)
    expected: list[int] = []
    for i in range(n):
        kept = [k for k in range(i) if expected[k] < 0 and cosines[i, k] >= round(threshold, 3)]
        expected.append(min(kept, default=-1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "BLOCK", block)
        assert first_close(vectors, order, round(threshold, 3)).tolist() == expected


def test_a_document_is_the_mean_of_its_passages() -> None:
    def embed(texts: Sequence[str]) -> Vectors:
        return np.array([[float("a" in text), float("b" in text)] for text in texts], dtype=np.float32)

    words = ["a"] * semantic.PASSAGE_WORDS + ["b"] * semantic.PASSAGE_WORDS
    found = document_vectors([" ".join(words), "a", ""], embed)
    assert np.allclose(found, [[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]])


def test_other_words_for_the_same_are_found_and_twins_are_kept_documents(tmp_path: Path) -> None:
    texts = {
        "a": "The library opens at nine o'clock in the morning and closes at six in the evening on weekdays.",
        "b": "On weekdays the library opens at nine in the morning and closes at six o'clock in the evening.",
        "c": "On weekdays the library opens at nine in the morning and closes at six o'clock in the EVENING!",
        "d": "Volcanoes form where molten rock rises through the crust of a planet.",
        "e": "...",
    }
    table = pa.table({"id": list(texts), "day": ["1", "2", "3", "1", "1"], "text": list(texts.values())})
    found = pa.concat_tables(dedup_batches(lambda: iter([table.slice(0, 2), table.slice(2)]), scratch=tmp_path, semantic=0.9)).to_pylist()
    assert [(v["reason"], v["kept_id"], v["cluster_id"], v["jaccard"]) for v in found] == [
        ("kept", None, "a", None),
        ("semantic_duplicate", "a", "a", None),
        ("semantic_duplicate", "a", "a", None),
        ("kept", None, "d", None),
        ("kept", None, "e", None),
    ]
    plain = pa.concat_tables(dedup_batches(lambda: iter([table]), scratch=tmp_path)).to_pylist()
    assert [v["reason"] for v in plain] == ["kept", "kept", "exact_duplicate", "kept", "kept"]
    assert list(tmp_path.iterdir()) == []
