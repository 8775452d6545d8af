"""Agreement beyond chance equals the published examples, and its intervals hold what they claim."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.agreement import PassTable, agreement, corrected_rate, kappa_gain, krippendorff_alpha, pass_table


def kappa(*arguments: Any) -> float:
    return agreement(*arguments).kappa.mean


def test_kappa_of_a_table_worked_by_hand() -> None:
    """Both yes 20, yes/no 5, no/yes 10, both no 15: observed 0.7, by chance 0.5."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = agreement(first, second, ["yes", "no"])
    assert found.raw == pytest.approx(0.7)
    assert found.kappa.mean == pytest.approx(0.4)
    assert found.ac1 == pytest.approx((0.7 - 0.495) / (1 - 0.495))
    assert found.kappa.low < 0.4 < found.kappa.high


@pytest.mark.parametrize("weights", ["nominal", "quadratic"])
def test_kappa_is_that_of_scikit_learn(weights: str) -> None:
    rng = np.random.default_rng(3)
    first = rng.integers(1, 6, 300)
    second = np.clip(first + rng.integers(-2, 3, 300), 1, 5)
    theirs = cohen_kappa_score(first, second, labels=[1, 2, 3, 4, 5], weights=None if weights == "nominal" else weights)
    assert kappa(first.tolist(), second.tolist(), [1, 2, 3, 4, 5], weights) == pytest.approx(theirs)


def test_a_constant_rater_agrees_by_chance_only_and_two_of_them_say_nothing() -> None:
    truth = ["A"] * 30 + ["B"] * 70
    assert kappa(truth, ["A"] * 100, ["A", "B"]) == pytest.approx(0)
    assert math.isnan(kappa(["A"] * 9, ["A"] * 9, ["A", "B"]))
    assert math.isnan(agreement([], [], ["A", "B"]).kappa.mean)


def test_a_label_off_the_scale_and_uneven_raters_are_refused() -> None:
    with pytest.raises(InputError, match="received the label 'C', expected one of"):
        kappa(["A", "C"], ["A", "A"], ["A", "B"])
    with pytest.raises(InputError, match="received 2, 1 labels"):
        kappa(["A", "B"], ["A"], ["A", "B"])


def test_200_labels_give_kappa_within_about_10_points() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    judged = np.where(rng.random(200) < 0.8, truth, 1 - truth)
    found = agreement(truth.tolist(), judged.tolist(), [0, 1]).kappa
    assert 0.08 < (found.high - found.low) / 2 < 0.12
    assert agreement(truth.tolist(), judged.tolist(), [0, 1]).kappa == found


def test_the_interval_holds_the_true_kappa_as_often_as_it_claims() -> None:
    """Two labels, even, rater right with probability 0.8: kappa 0.6; 90% intervals of 150 items."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        truth = rng.integers(0, 2, 150)
        found = agreement(truth.tolist(), np.where(rng.random(150) < 0.8, truth, 1 - truth).tolist(), [0, 1]).kappa
        held += found.low <= 0.6 <= found.high
    assert 168 <= held <= 192


def test_a_better_rater_surely_beats_a_worse_one_and_not_itself() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 300)
    good = np.where(rng.random(300) < 0.9, truth, 1 - truth).tolist()
    poor = np.where(rng.random(300) < 0.6, truth, 1 - truth).tolist()
    gain = kappa_gain(truth.tolist(), good, poor, [0, 1])
    assert gain.low > 0.3
    assert gain.mean == pytest.approx(kappa(truth.tolist(), good, [0, 1]) - kappa(truth.tolist(), poor, [0, 1]))
    assert kappa_gain(truth.tolist(), good, good, [0, 1]).high == 0


def test_alpha_of_the_published_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve units, missing data."""
    observers = {
        "a": "1 2 3 3 2 1 4 1 2 . . .".split(),
        "b": "1 2 3 3 2 2 4 1 2 5 . 3".split(),
        "c": ". 3 3 3 2 3 4 2 2 5 1 .".split(),
        "d": "1 2 3 3 2 4 4 1 2 5 1 .".split(),
    }
    units = [{name: int(row[i]) for name, row in observers.items() if row[i] != "."} for i in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=0.001)
    assert krippendorff_alpha(units, "quadratic") == pytest.approx(0.849, abs=0.001)
    assert math.isnan(krippendorff_alpha([{"a": 1}, {"b": 2}]))


def test_the_corrected_rate_undoes_a_judge_that_passes_too_much() -> None:
    """A judge that passes 90% of good and 30% of bad answers passes 60% of a set that is half good."""
    found = corrected_rate(600, 1000, PassTable(180, 20, 60, 140))
    assert found.mean == pytest.approx(0.5)
    assert 0.4 < found.low < 0.5 < found.high < 0.6


def test_the_corrected_rate_holds_the_truth_as_often_as_it_claims() -> None:
    rng, held = np.random.default_rng(4), 0
    for _ in range(200):
        truth, wild = rng.random(150) < 0.6, rng.random(300) < 0.4
        judged, seen = (np.where(set_, rng.random(set_.size) < 0.85, rng.random(set_.size) < 0.2) for set_ in (truth, wild))
        found = corrected_rate(int(seen.sum()), 300, pass_table(truth.tolist(), judged.tolist()))
        held += found.low <= 0.4 <= found.high
    assert 168 <= held <= 196


def test_a_judge_that_tells_nothing_has_no_corrected_rate() -> None:
    assert math.isnan(corrected_rate(50, 100, PassTable(20, 20, 20, 20)).mean)
    assert math.isnan(corrected_rate(50, 100, PassTable(40, 0, 0, 0)).mean)
