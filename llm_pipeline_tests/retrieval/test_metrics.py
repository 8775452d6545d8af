"""Ranking metrics against scikit-learn, hand-computed cases and properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from llm_pipeline.retrieval.metrics import evaluate, gains, ndcg_at, recall_at, reciprocal_rank
from llm_pipeline.retrieval.search import Passage


def passage(uri: str, external_id: str | None = None) -> Passage:
    return Passage(uri, uri, uri, external_id, "s", "", uri, 1.0)


def test_by_hand() -> None:
    gain = gains([passage("x"), passage("a"), passage("a"), passage("y", "b")], ["a", "b", "c"])
    assert gain == [0, 1, 0, 1]
    assert [recall_at(gain, 3, k) for k in (1, 2, 4)] == [0, 1 / 2, 2 / 3]
    assert reciprocal_rank(gain) == 1 / 2
    assert ndcg_at(gain, 3) == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / 2))


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), min_size=10, max_size=10).filter(any))
def test_ndcg_is_that_of_scikit_learn(gain: list[int]) -> None:
    """Where every relevant document was retrieved."""
    reference = ndcg_score([gain], [list(range(10, 0, -1))], k=10)
    assert ndcg_at(gain, sum(gain)) == pytest.approx(reference)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=12), st.sets(st.sampled_from("abcdefgh"), min_size=1))
def test_bounds_and_order(ranking: list[str], relevant: set[str]) -> None:
    gain = gains([passage(name) for name in ranking], relevant)
    recalls = [sum(gain[:k]) for k in range(13)]
    assert recalls == sorted(recalls)
    assert sum(gain) == len(set(ranking) & relevant)
    assert 0 <= ndcg_at(gain, len(relevant)) <= 1 + 1e-12
    assert 0 <= reciprocal_rank(gain) <= 1
    assert all(0 <= recall_at(gain, len(relevant), k) <= 1 for k in (1, 5, 10))
    assert (reciprocal_rank(gain) == 0) == (not any(gain))


def test_a_suite_without_relevant_documents_has_no_figures() -> None:
    assert evaluate(None, [{"question": "?", "relevant": []}]) == {}  # type: ignore[arg-type]
