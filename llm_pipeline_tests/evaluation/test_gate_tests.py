"""The paired tests against brute force and scipy: McNemar, Tango's interval, sign flips, Holm."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from llm_pipeline.evaluation.paired import SUBSETS, McNemar, SignFlip, detectable, holm, paired_test, pairs_needed

counts = st.integers(0, 60)
changes = st.lists(st.floats(-1, 1, allow_nan=False).map(lambda x: round(x, 3)), min_size=6, max_size=60)


@settings(deadline=None)
@given(counts, counts)
def test_mcnemar_is_the_binomial_with_half_of_the_observed_term(wins: int, losses: int) -> None:
    n = wins + losses
    at_least = sum((Fraction(comb(n, k), 2**n) for k in range(wins, n + 1)), Fraction(0))
    found = McNemar(n + 7, wins, losses).above(0)
    assert found == pytest.approx(float(at_least - Fraction(comb(n, wins), 2 ** (n + 1))), abs=1e-12)
    if n:
        exact = stats.binomtest(wins, n, 0.5, alternative="greater").pvalue
        assert found == pytest.approx(exact - stats.binom.pmf(wins, n, 0.5) / 2, abs=1e-12)
    assert McNemar(n + 7, wins, losses).below(0) == McNemar(n + 7, losses, wins).above(0)


@settings(deadline=None, max_examples=40)
@given(counts, counts, st.integers(1, 200), st.floats(-0.6, 0.6))
def test_the_score_is_that_of_the_constrained_likelihood(wins: int, losses: int, same: int, bound: float) -> None:
    """Tango's closed form against maximising the likelihood of (wins, losses, same) under wins - losses = bound numerically."""
    n = wins + losses + same

    def unlikely(lost: float) -> float:
        won = lost + bound
        parts = ((wins, won), (losses, lost), (same, 1 - won - lost))
        return -float(sum(count * np.log(max(share, 1e-300)) for count, share in parts if count))

    lost = optimize.minimize_scalar(unlikely, bounds=(max(0.0, -bound), (1 - bound) / 2), method="bounded", options={"xatol": 1e-10}).x
    variance = n * (2 * lost + bound - bound**2)
    if variance > 1e-3:
        assert McNemar(n, wins, losses)._score(bound) == pytest.approx((wins - losses - n * bound) / np.sqrt(variance), rel=2e-3, abs=2e-3)


@settings(deadline=None)
@given(counts, counts, st.integers(1, 200))
def test_the_interval_ends_where_the_test_turns(wins: int, losses: int, same: int) -> None:
    test = McNemar(wins + losses + same, wins, losses)
    low, high = test.interval(0.025)
    assert -1 <= low <= test.difference <= high <= 1
    for bound, p in ((low, test.above), (high, test.below)):
        if abs(bound) > 1e-6:
            assert p(bound) == pytest.approx(0.025, abs=1e-4)


def test_no_discordant_pairs_still_leave_doubt() -> None:
    low, high = McNemar(100, 0, 0).interval(0.025)
    assert -low == pytest.approx(high)
    assert high == pytest.approx(1.96**2 / (100 + 1.96**2), abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-5, 5), min_size=6, max_size=10), st.integers(-3, 3))
def test_sign_flips_are_those_of_all_sign_patterns(values: list[int], bound: int) -> None:
    test = SignFlip(np.asarray(values, float))
    moved = np.asarray(values) - bound
    sums = [int(np.dot(signs, moved)) for signs in product((1, -1), repeat=len(values))]
    assert test.above(bound) == pytest.approx(np.mean([s >= moved.sum() for s in sums]))
    assert test.below(bound) == pytest.approx(np.mean([s <= moved.sum() for s in sums]))


@pytest.mark.parametrize("n", [40, 400])
def test_random_sign_flips_agree_with_scipy_and_the_t_interval(n: int) -> None:
    change = np.random.default_rng(n).normal(0.1, 1, n)
    test = SignFlip(change)
    theirs = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=20_000, alternative="greater", rng=1).pvalue
    assert test.above(0) == pytest.approx(theirs, abs=4 * np.sqrt(theirs * (1 - theirs) / SUBSETS) + 1e-3)
    assert test.interval(0.025) == pytest.approx(stats.t.interval(0.95, n - 1, change.mean(), stats.sem(change)), abs=0.3 / np.sqrt(n))


@settings(deadline=None, max_examples=50)
@given(changes, st.floats(-0.5, 0.5))
def test_swapping_the_models_mirrors_everything(values: list[float], bound: float) -> None:
    forth, back = SignFlip(np.asarray(values)), SignFlip(-np.asarray(values))
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.above(bound) == back.below(-bound)
    low, high = forth.interval(0.025)
    assert back.interval(0.025) == pytest.approx((-high, -low))


@settings(deadline=None, max_examples=50)
@given(changes, st.data())
def test_a_pair_that_improves_moves_no_bound_down(values: list[float], data: st.DataObject) -> None:
    better = list(values)
    better[data.draw(st.integers(0, len(values) - 1))] += data.draw(st.floats(0.01, 1))
    before, after = SignFlip(np.asarray(values)), SignFlip(np.asarray(better))
    assert after.interval(0.025)[0] >= before.interval(0.025)[0] - 1e-9
    assert after.above(0) <= before.above(0) + 1e-9
    assert after.below(0) >= before.below(0) - 1e-9


@settings(deadline=None)
@given(counts, counts, st.integers(1, 100))
def test_a_won_pair_moves_no_bound_of_mcnemar_down(wins: int, losses: int, same: int) -> None:
    n = wins + losses + same
    steps = [McNemar(n, wins, losses), McNemar(n, wins + 1, losses)]
    steps += [McNemar(n, wins, losses - 1), McNemar(n, wins + 1, losses - 1)] if losses else []
    for better in steps[1:]:
        assert better.above(0) <= steps[0].above(0)
        assert better.above(-0.05) <= steps[0].above(-0.05) + 1e-12
        assert better.interval(0.025)[0] >= steps[0].interval(0.025)[0] - 1e-9


def test_the_scores_choose_the_test() -> None:
    assert paired_test([0, 1, 1], [True, 1.0, 0]).name == "McNemar mid-p"
    assert paired_test([0, 1, 0.5], [1, 1, 0]).name == "sign-flip permutation"
    with pytest.raises(ValueError, match="received 1 and 2 values"):
        paired_test([1], [1, 0])


def test_equal_scores_prove_no_difference() -> None:
    same = SignFlip(np.zeros(50))
    assert same.interval(0.025) == (0, 0)
    assert same.above(0) == same.below(0) == 1
    assert same.above(-0.02) < 0.001


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[place] * (len(p_values) - rank) > alpha:
                break
            rejected.add(place)
        assert rejected == {i for i, p in enumerate(adjusted) if p <= alpha}


def test_the_detectable_effect_is_detected_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    test = McNemar(500, 30, 30)
    effect = detectable(test, 0.025, 0.8)
    shares = [0.06 + effect / 2, 0.06 - effect / 2, 0.88]
    found = [McNemar(500, int(w), int(x)).above(0) <= 0.025 for w, x, _ in rng.multinomial(500, shares, 2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    assert pairs_needed(test, effect, 0.025, 0.8) == 500
    assert pairs_needed(test, 0.0, 0.025, 0.8) is None
