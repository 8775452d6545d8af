"""The cache's threshold: no lower than its bound of false hits allows, and refused where too few pairs can show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from llm_pipeline.errors import InputError
from llm_pipeline.serving.cache.calibration import Pair, at_threshold, calibrate, pairs_of, upper_bound


def pairs(same: Sequence[float], different: Sequence[float]) -> list[Pair]:
    return [Pair("a", "b", similarity, good) for good, values in ((True, same), (False, different)) for similarity in values]


def test_the_bound_is_the_rate_at_which_so_few_would_be_rare() -> None:
    assert upper_bound(0, 299, 0.95) == pytest.approx(0.00997, abs=1e-5)
    assert binom.cdf(3, 500, upper_bound(3, 500, 0.95)) == pytest.approx(0.05)
    assert upper_bound(5, 5, 0.95) == 1.0


def test_the_lowest_threshold_whose_bound_holds_is_chosen() -> None:
    known = pairs([0.99, 0.93, 0.91, 0.5], [0.92] * 3 + [0.895] * 10 + [0.2] * 987)
    found = calibrate(known, most=0.01)
    assert (found.threshold, found.false_hits, found.hits) == (0.9, 3, 3)
    assert found.bound <= 0.01 < at_threshold(known, 0.895).bound
    assert calibrate(known, most=0.005).threshold == 0.925


def test_a_good_rate_below_a_bad_one_is_not_reached() -> None:
    """Stopping at the first failure is what keeps the confidence over many thresholds; it also never skips a bad stretch."""
    assert calibrate(pairs([0.6], [0.95] * 50 + [0.1] * 950), most=0.01).threshold == 0.955


def test_too_few_pairs_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(InputError, match=r"100 pairs of different meaning: at least 299 .* at most 0\.01 with confidence 0\.95"):
        calibrate(pairs([0.9], [0.1] * 100), most=0.01)


def test_held_out_false_hits_stay_below_the_bound_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    broken = 0
    for _ in range(100):
        threshold = calibrate(pairs([], list(random.beta(6, 3, 600))), most=0.02).threshold
        rate = float((random.beta(6, 3, 200_000) >= threshold).mean())
        broken += rate > 0.02
    assert broken <= 10


def test_pairs_are_the_nearest_earlier_questions_of_the_same_facts() -> None:
    angles = {"fee a": 0.0, "fee b": 0.1, "rate": 0.15, "fee of 2": 0.05, "the fee of 2": 0.5, "fee a ": 0.3}

    def embed(texts: Sequence[str]) -> Any:
        return np.array([[np.cos(angles[text]), np.sin(angles[text])] for text in texts], np.float32)

    stream = [("fee a", "fee"), ("rate", "rate"), ("fee of 2", "fee2"), ("fee a", "fee"), ("fee b", "fee"), ("the fee of 2", "fee2")]
    guarded = [(pair.question, pair.nearest, pair.same) for pair in pairs_of(stream, embed)]
    assert guarded == [("rate", "fee a", False), ("fee b", "fee a", True), ("fee b", "rate", False), ("the fee of 2", "fee of 2", True)]
    free = [(pair.question, pair.nearest, pair.same) for pair in pairs_of(stream, embed, guard=False)]
    assert ("fee of 2", "fee a", False) in free
    assert ("the fee of 2", "rate", False) in free
