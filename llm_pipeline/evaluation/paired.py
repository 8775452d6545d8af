"""Tests of a paired difference, challenger minus champion on the same examples; two kinds of scores, one interface.

Scores of 0 and 1: McNemar's test in its mid-p form against no difference (Fagerland, Lydersen and Laake 2013), Tango's score test and
interval for any other bound (1998); both keep their level where few pairs differ, where bootstrap intervals shrink to nothing.

Other scores: the sign-flip permutation test. It rejects "the mean is x" exactly when x lies outside the means of random subsets of the
differences (Hartigan 1969), so one set of subset means gives the p-value for every bound and the interval, and no two of them disagree.
A pair that improves raises every subset mean it is in, so no bound and no verdict can fall by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SUBSETS = 4_999
"""Random subsets of the sign-flip test: p-values are known to 1/5,000."""
SEED = 0
_NORMAL = NormalDist()
_TIE = 1e-9
"""Subset means this close, in units of the largest difference, are the same number summed in another order."""


class PairedTest(Protocol):
    """What a verdict needs to know about one metric; differences point to the better side."""

    @property
    def name(self) -> str: ...
    @property
    def n(self) -> int: ...
    @property
    def difference(self) -> float: ...
    @property
    def standard_error(self) -> float: ...

    def above(self, bound: float) -> float:
        """One-sided p-value of "the true difference is `bound` or less"; small when it is surely above."""

    def below(self, bound: float) -> float:
        """One-sided p-value of "the true difference is `bound` or more"; small when it is surely below."""

    def interval(self, alpha: float) -> tuple[float, float]:
        """Bounds that the true difference lies below, and above, with probability `alpha` each."""


def paired_test(before: Sequence[float], after: Sequence[float]) -> PairedTest:
    """The test that suits the scores: McNemar when all of them are 0 or 1, sign flips otherwise."""
    if len(before) != len(after) or not len(before):
        raise ValueError(f"paired test: received {len(before)} and {len(after)} values, expected one pair or more")
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    change = second - first
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        return McNemar(len(change), int((change > 0).sum()), int((change < 0).sum()))
    return SignFlip(change)


@dataclass(frozen=True)
class McNemar:
    """`wins` pairs went from 0 to 1 and `losses` from 1 to 0, of `n`."""

    n: int
    wins: int
    losses: int
    name: str = "McNemar mid-p"

    @property
    def difference(self) -> float:
        return (self.wins - self.losses) / self.n

    @property
    def standard_error(self) -> float:
        """With half a pair added to either side, so that it is never 0 (Agresti and Min 2005)."""
        return sqrt(self.wins + self.losses + 1 - (self.wins - self.losses) ** 2 / (self.n + 2)) / (self.n + 2)

    def above(self, bound: float) -> float:
        return _mid_p(self.wins, self.losses) if bound == 0 else 1 - _NORMAL.cdf(self._score(bound))

    def below(self, bound: float) -> float:
        return McNemar(self.n, self.losses, self.wins).above(-bound)

    def interval(self, alpha: float) -> tuple[float, float]:
        return self._lower(alpha), -McNemar(self.n, self.losses, self.wins)._lower(alpha)

    def _lower(self, alpha: float) -> float:
        from scipy.optimize import brentq

        z = _NORMAL.inv_cdf(1 - alpha)
        if self.losses == self.n:
            return -1.0
        return float(brentq(lambda x: self._score(x) - z, -1 + 1e-12, self.difference, xtol=1e-12))

    def _score(self, bound: float) -> float:
        """How many standard errors the difference lies above `bound`, the error being that under `bound` (Tango 1998, eq. 4)."""
        x = min(max(bound, -1 + 1e-12), 1 - 1e-12)
        a = 2 * self.n
        b = -self.wins - self.losses + (2 * self.n - self.wins + self.losses) * x
        c = -self.losses * x * (1 - x)
        lost = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = self.n * max(2 * lost + x * (1 - x), 0.0)
        gap = self.wins - self.losses - self.n * x
        return gap / sqrt(variance) if variance > 0 else 0.0 if gap == 0 else float(np.copysign(np.inf, gap))


def _mid_p(wins: int, losses: int) -> float:
    """P(more than `wins`) + P(`wins`) / 2 of wins + losses fair coins."""
    from scipy.stats import binom

    coins = wins + losses
    return float(binom.sf(wins, coins, 0.5) + binom.pmf(wins, coins, 0.5) / 2)


class SignFlip:
    """The sign-flip test of the mean of `change`; the subsets depend on the number of pairs only, so the answer is always the same."""

    name = "sign-flip permutation"

    def __init__(self, change: NDArray[np.float64]) -> None:
        self.n = len(change)
        self.difference = float(change.mean())
        self.standard_error = float(change.std(ddof=1) / sqrt(self.n)) if self.n > 1 else float("inf")
        self._means = np.sort(subset_means(change))
        self._tie = _TIE * float(np.abs(change).max())

    def above(self, bound: float) -> float:
        return float(1 + np.searchsorted(self._means, bound + self._tie, side="right")) / (1 + len(self._means))

    def below(self, bound: float) -> float:
        at_least = len(self._means) - np.searchsorted(self._means, bound - self._tie, side="left")
        return float(1 + at_least) / (1 + len(self._means))

    def interval(self, alpha: float) -> tuple[float, float]:
        outside = int(alpha * (1 + len(self._means)) + 1e-9) - 1
        if outside < 0:
            return float("-inf"), float("inf")
        return float(self._means[outside]), float(self._means[-1 - outside])


def subset_means(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of `change` (n, or n x many columns) over random non-empty subsets, all of them when these are few."""
    rows = (1 << len(change)) - 1 if len(change) < SUBSETS.bit_length() else SUBSETS
    step = max(1, 8_000_000 // len(change))
    parts = []
    for start in range(0, rows, step):
        chosen = _subsets(len(change), start, min(step, rows - start)).astype(np.float64)
        parts.append((chosen @ change) / chosen.sum(axis=1).reshape(-1, *[1] * (change.ndim - 1)))
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _subsets(n: int, start: int, count: int) -> NDArray[np.bool_]:
    if n < SUBSETS.bit_length():
        return (np.arange(start + 1, start + count + 1)[:, None] >> np.arange(n) & 1).astype(bool)
    bits = np.frombuffer(np.random.default_rng([SEED, n, start]).bytes((count * n + 7) // 8), np.uint8)
    chosen = np.unpackbits(bits)[: count * n].reshape(count, n).astype(bool)
    chosen[~chosen.any(axis=1), 0] = True
    return chosen


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of which all at most alpha are true findings with probability 1 - alpha (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def detectable(test: PairedTest, alpha: float, power: float) -> float:
    """The smallest true difference that this many pairs show with probability `power`."""
    return (_NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(power)) * test.standard_error


def pairs_needed(test: PairedTest, effect: float, alpha: float, power: float) -> int | None:
    """How many such pairs would show a true difference of `effect` with probability `power`; None when no number would."""
    return int(np.ceil(test.n * (detectable(test, alpha, power) / effect) ** 2)) if effect > 0 else None
