"""How sure a mean or a difference is: percentile bootstrap intervals with a fixed seed (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
LEVEL = 0.90


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its two-sided interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of `values` and its bootstrap interval; the same values give the same interval."""
    data = np.asarray(values, np.float64)
    if not data.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.quantile(_resampled_means(data, resamples, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high), data.size)


def score_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval:
    """The mean of one model's scores: Wilson's interval when all are 0 or 1 (1927; few or perfect ones keep a width), else bootstrap."""
    if not values or set(values) - {0.0, 1.0}:
        return mean_interval(values, level=level)
    n, mean = len(values), sum(values) / len(values)
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(mean, max(0.0, centre - half), min(1.0, centre + half), n)


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of `after - before` on the same questions; pairing takes out how hard each question is."""
    if len(before) != len(after):
        raise ValueError(f"paired difference: received {len(before)} and {len(after)} values, expected one pair per question")
    return mean_interval(np.subtract(after, before, dtype=np.float64).tolist(), level=level, resamples=resamples, seed=seed)


def _resampled_means(data: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means of samples with replacement, in slices so that memory stays below 32 MB."""
    rng = np.random.default_rng(seed)
    step = max(1, 4_000_000 // data.size)
    sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([data[rng.integers(0, data.size, (size, data.size))].mean(axis=1) for size in sizes])
