"""What bad events say about a canary: tests that may be looked at after each request without raising the chance to be wrong.

When the releases are equally good, a bad event falls on the canary with its share `w` of the requests; when the canary's odds of one
are theta times as high, with w*theta / (1 - w + w*theta). How many bad events there are, in bursts or not, does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

THETAS = tuple(1.25 * (30 / 1.25) ** (i / 24) for i in range(25))
EVENLY, HORIZON = 0.75, 600
"""The part of an exact test's chance of a false alarm that is spent evenly over so many requests: most rollouts end within them."""
WITH_EVENTS, PACE = 0.2, 10
"""The part that is spent with bad events, for as long as they come, half of it after so many. What is left makes up for shares of the
requests that are measured, not known."""


@dataclass
class EProcess:
    """How much more likely the bad events are when the canary has more than its share of them: the likelihood ratio, averaged over theta.

    Under the null it exceeds x with probability at most 1/x, ever (Ville's inequality; Ramdas et al. 2023, "Game-theoretic statistics and
    safe anytime-valid inference"; Lindon et al., KDD 2022).
    """

    logs: list[float] = field(default_factory=lambda: [0.0] * len(THETAS))
    value: float = 1.0

    def add(self, *, canary: bool, share: float) -> None:
        """Count one bad event; `share` is the canary's share of the requests, known before the event."""
        for i, theta in enumerate(THETAS):
            self.logs[i] += (math.log(theta) if canary else 0.0) - math.log(1 - share + share * theta)
        top = max(self.logs)
        self.value = math.exp(min(top, 600.0)) * sum(math.exp(log - top) for log in self.logs) / len(self.logs)


@dataclass
class ExactTest:
    """Whether too many bad events fell on the canary, with probability at most `alpha` of ever saying so under the null.

    The chance of every number of hits is computed exactly over the ways on which the test has not ended, and looks spend `alpha` as
    requests and events come in (alpha spending: Lan and DeMets, 1983). When they come says nothing of whom they fall on, so the clock may
    count them. An e-value of 1/alpha needs more events for the same: few of them make it jump beyond its limit, and that part of alpha is
    never used.
    """

    alpha: float
    ended: bool = False
    spent: float = 0.0
    """The chance of a false alarm so far."""
    _chances: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    _events: int = 0
    _hits: int = 0

    @property
    def limit(self) -> int:
        """Hits that end the test now."""
        return len(self._chances)

    def add(self, *, canary: bool, share: float) -> None:
        """Count one bad event, as `EProcess.add`."""
        if self.ended:
            return
        self._events += 1
        self._hits += canary
        chances = np.append(self._chances * (1 - share), 0.0)
        chances[1:] += self._chances * share
        self._chances = chances

    def look(self, requests: int) -> bool:
        """Whether the hits are too many, `requests` having been seen: the most unlikely numbers of hits end it, as far as alpha reaches."""
        if self.ended:
            return True
        clock = EVENLY * min(1.0, requests / HORIZON) + WITH_EVENTS * self._events / (self._events + PACE)
        while self._chances[-1] <= self.alpha * clock - self.spent:
            self.spent += float(self._chances[-1])
            self._chances = self._chances[:-1]
        self.ended = self._hits >= len(self._chances)
        return self.ended


@dataclass
class NonInferiority:
    """How much more likely what was seen is if both releases are alike than if the canary's share of bad requests is too large.

    Too large is `max(2 * stable, stable + rise)` or more, whatever the stable one's is. Each request multiplies the likelihood under the
    share of bad requests so far by the inverse of that under the nearest two shares which are too large: as these form a convex set, no
    such pair expects a product above 1, also when it drifts (reverse information projection: Gruenwald, de Heide and Koolen, "Safe
    testing", 2024; Turner, Ly and Gruenwald, 2024, for two samples). So a product ever above x has a chance of at most 1/x if the canary
    is too bad.
    """

    rise: float
    log: float = 0.0
    _requests: int = 0
    _bad: int = 0

    def add(self, *, canary: bool, share: float) -> float:
        """Count one request as good; what `turn` takes if it is bad, which may be found out later."""
        rate = (self._bad + 0.5) / (self._requests + 50)
        good, bad = _bets(float(f"{rate:.2g}"), round(share, 2), self.rise)[canary]
        self.log += good
        self._requests += 1
        return bad - good

    def turn(self, stake: float) -> None:
        """Count a request as bad that was counted as good."""
        self._bad += 1
        self.log += stake


@lru_cache(10_000)
def _bets(rate: float, share: float, rise: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """By how much a good and a bad request of the stable release, and of the canary, raise the logarithm.

    The nearest pair lies on the edge of what is too bad, where the relative entropy of `rate` to both is least: by bisection.
    """
    rate, share = min(rate, 0.99), min(max(share, 0.01), 0.99)
    low, high = rate * 1e-9, rate
    for _ in range(50):
        stable = (low + high) / 2
        canary = max(2 * stable, stable + rise)
        if canary < 1 and share * (2 if stable > rise else 1) * _slope(rate, canary) + (1 - share) * _slope(rate, stable) < 0:
            low = stable
        else:
            high = stable
    canary = max(2 * low, low + rise)
    return _logs(rate, low), _logs(rate, canary)


def _logs(rate: float, chance: float) -> tuple[float, float]:
    return math.log((1 - rate) / (1 - chance)), math.log(rate / chance)


def _slope(rate: float, chance: float) -> float:
    """How fast the relative entropy of `rate` to `chance` grows with `chance`."""
    return (chance - rate) / (chance * (1 - chance))
