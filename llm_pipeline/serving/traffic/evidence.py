"""What bad events say about a canary: two tests that may be looked at after each of them without raising false alarms, and a bound.

When the releases are equally good, a bad event falls on the canary with its share `w` of the requests; when the canary's odds of one
are theta times as high, with w*theta / (1 - w + w*theta). How many bad events there are, in bursts or not, does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

THETAS = tuple(1.25 * (30 / 1.25) ** (i / 24) for i in range(25))
PACE = 10
"""Bad events after which half of a test's chance of a false alarm is spent."""
Z = 1.645
"""One-sided 95%."""


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

    The chance of every number of hits is computed exactly over the ways on which the test has not ended. After n bad events at most
    alpha * n / (n + PACE) of it has been spent (alpha spending: Lan and DeMets, 1983). An e-value of 1/alpha needs more events for the
    same: few of them make it jump beyond its limit, and that part of alpha is never used.
    """

    alpha: float
    ended: bool = False
    _chances: NDArray[np.float64] = field(default_factory=lambda: np.ones(1))
    _spent: float = 0.0
    _events: int = 0
    _hits: int = 0

    def add(self, *, canary: bool, share: float) -> None:
        """Count one bad event, as `EProcess.add`."""
        if self.ended:
            return
        self._events += 1
        self._hits += canary
        chances = np.append(self._chances * (1 - share), 0.0)
        chances[1:] += self._chances * share
        tails = np.cumsum(chances[::-1])[::-1]
        allowed = self.alpha * self._events / (self._events + PACE) - self._spent
        limit = int(np.searchsorted(-tails, -allowed))
        if limit < len(tails):
            self._spent += float(tails[limit])
        self._chances = chances[:limit]
        self.ended = self._hits >= limit


def upper_bound(bad: int, n: int) -> float:
    """The share of bad events below which the true one lies with 95% confidence (Wilson's score), 1 when nothing was seen."""
    if not n:
        return 1.0
    share, z = bad / n, Z * Z / n
    return (share + z / 2 + Z * math.sqrt(share * (1 - share) / n + z / n / 4)) / (1 + z)
