"""Answer metrics: numbers stay strict, words are forgiving, and the interval is that of scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.evaluation.compare import mean_interval, paired_difference
from llm_pipeline.evaluation.metrics import exact_match, is_grounded, is_refusal, normalise, rouge_l


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("$4.50", "$4.50", True),
        ("$4.50.", "$4.50", True),
        ("$4.50", "$4.5", False),
        ("$4.50", "$450", False),
        ("$4.50", "4.50", False),
        ("$4.50", "€4.50", False),
        ("$1,000", "$1000", True),
        ("1,00", "100", False),
        ("3.25%", "3.25", False),
        ("-5", "5", False),
        ("9:30 to 17:00", "9:30 to 17:00", True),
        ("9:30 to 17:00", "930 to 1700", False),
        ("The mobile app", "the mobile app.", True),
        ("a passport and a photo", "passport and photo", True),
        ("photo and passport", "passport and photo", False),
        ("Über", "über", True),
        ("5 days", "5  Days!", True),
        ("5 days", "15 days", False),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_exact_match(answer: str, reference: str, same: bool) -> None:
    assert exact_match(answer, reference) is same
    assert exact_match(reference, answer) is same


@settings(deadline=None)
@given(st.text(max_size=80))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(" ".join(normalise(text))) == normalise(text)
    assert exact_match(text, text)
    assert exact_match(f"  {text}\n", text)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_different_numbers_never_match(a: int, b: int) -> None:
    assert exact_match(f"${a:,}", f"${b}") is (a == b)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("red green blue 5 9".split()), max_size=8), st.lists(st.sampled_from("red green blue 5 9".split()), max_size=8)
)
def test_rouge_l_is_that_of_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    lcs = np.zeros((len(a) + 1, len(b) + 1))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            lcs[i + 1, j + 1] = lcs[i, j] + 1 if x == y else max(lcs[i, j + 1], lcs[i + 1, j])
    expected = 2 * lcs[-1, -1] / (len(a) + len(b)) if a and b else 0.0
    assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected)


def test_refusals() -> None:
    for text in (
        REFUSAL,
        "I don’t know.",
        "Sorry, I cannot answer that",
        "We do not have it",
        "No information is available",
        "That is not stated in the text.",
    ):
        assert is_refusal(text), text
    for text in ("", "$5", "You do not pay a fee.", "the mobile app", "I have 5 of them"):
        assert not is_refusal(text), text


def test_groundedness() -> None:
    passages = ["The fee is $4.50 a month.", "Open 9:30 to 17:00."]
    assert is_grounded("$4.50", passages)
    assert is_grounded("9:30 to 17:00", passages)
    assert not is_grounded("$4.5", passages)
    assert not is_grounded("$4.50 at 9:30", passages), "no single passage says both"
    assert not is_grounded("", passages)


def test_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).binomial(1, 0.7, 200).astype(float)
    mine = mean_interval(values.tolist())
    theirs = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=2000, method="percentile", rng=1).confidence_interval
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.011)
    assert mine == mean_interval(values.tolist())


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(0)
    before = rng.binomial(1, 0.5, 300)
    after = np.where(rng.random(300) < 0.1, 1, before)
    paired = paired_difference(before.tolist(), after.tolist())
    alone = mean_interval(after.tolist())
    assert 0 < paired.low < paired.mean < paired.high
    assert paired.high - paired.low < alone.high - alone.low
    with pytest.raises(ValueError, match="received 2 and 1 values"):
        paired_difference([1, 2], [1])


def test_coverage_of_the_interval() -> None:
    """The 90% interval holds the true mean in about 90% of the samples."""
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.binomial(1, 0.6, 150).tolist(), resamples=400) for _ in range(300)]
    assert 0.85 <= np.mean([i.low <= 0.6 <= i.high for i in intervals]) <= 0.95


def test_no_values() -> None:
    assert mean_interval([]).n == 0
