"""What one process holds of one limit of one key: plain arithmetic on the event loop, no lock and no database."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from llm_pipeline.serving.protection.leases import CONCURRENT, REQUESTS, WINDOW_SECONDS, Answer, Order

STOCK_ROUNDS = 20
"""A pool keeps units for so many rounds of its traffic: that long it goes on without the database."""
FADE = 0.85
"""What a round without traffic leaves of the demand that a pool remembers."""


class Pool:
    """Units of one limit: `free` ones, `busy` ones, and (monthly kinds) `spent` ones that the ledger does not know of yet.

    A request takes units and settles them when it ends. A place among the concurrent ones is free again at once; units of a
    minute when the request's second is a minute ago, so that no 60 seconds hold more than the limit; a month's never.
    """

    __slots__ = ("_cooling", "_demand", "_taken", "_window", "busy", "free", "frees_at", "key", "kind", "left", "left_at", "limit", "spent")

    def __init__(self, key: int, kind: str, limit: int) -> None:
        self.key, self.kind, self.limit = key, kind, limit
        self.free = self.busy = self.spent = 0
        self.left, self.left_at = limit, -math.inf
        self.frees_at: float | None = None
        self._window = WINDOW_SECONDS.get(kind)
        self._cooling: deque[list[float]] = deque()
        self._taken, self._demand = 0, 0.0

    def take(self, units: int, now: float) -> list[float] | None:
        """Use `units`, which must be free; what is returned goes back to `settle`."""
        self.free -= units
        self.busy += units
        self._taken += units
        if self._window is None:
            return None
        until, cooling = int(now) + 1 + self._window, self._cooling
        if not cooling or cooling[-1][0] < until:
            cooling.append([until, 0])
        last = cooling[-1]
        last[1] += units
        return last

    def settle(self, units: int, used: int, taken: list[float] | None, now: float) -> None:
        """End a request that took `units` and used `used` of them, perhaps more."""
        if self.kind == REQUESTS:
            return
        if taken is not None:
            self.cool(now)
            if taken[0] > now:  # else all that it took is free again already
                taken[1] += used - units
                self.busy += used - units
                self.free += units - used
            return
        self.busy -= units
        self.free += units
        if self.kind != CONCURRENT:
            self.free -= used
            self.spent += used

    def cool(self, now: float) -> None:
        """Free what was used a minute ago."""
        while self._cooling and self._cooling[0][0] <= now:
            units = int(self._cooling.popleft()[1])
            self.busy -= units
            self.free += units

    def lacks(self, units: int, now: float) -> bool:
        if self._cooling:
            self.cool(now)
        return self.free < units

    def empty(self, units: int, now: float, fresh: float) -> bool:
        """Whether the ledger said less than `fresh` seconds ago that so many units are not to be had."""
        return self.left_at > now - fresh and self.free + self.left < units

    def order(self, waiting: Sequence[int], now: float) -> Order:
        """What to report and ask for in this round; what is spent, and stock beyond the demand, leaves the pool with it."""
        self.cool(now)
        self._demand = max(float(self._taken), self._demand * FADE)
        self._demand, self._taken = (self._demand if self._demand > 0.5 else 0.0), 0
        stock, wanted = max(self.free, 0), math.ceil(self._demand * STOCK_ROUNDS)  # what was overdrawn is in busy or spent
        needs = _needs(waiting, stock)
        if not waiting:
            stock = min(stock, wanted, stock // 2 + max(self.left, 0))  # near the limit a stock is what another process lacks
        extra = max(0, wanted - stock, *(4 * need for need in needs)) if needs or 2 * stock < wanted else 0
        spent, self.free, self.spent = self.spent, stock, 0
        return Order(self.key, self.kind, self.limit, self.busy, stock, spent, needs, extra, self._cooling[0][0] if self._cooling else None)

    def carried_out(self, order: Order, answer: Answer, now: float) -> None:
        self.free += answer.granted - (order.stock if answer.lost else 0)
        self.left, self.left_at, self.frees_at = answer.left, now, answer.frees_at

    def failed(self, order: Order) -> None:
        """The order did not reach the ledger."""
        self.spent += order.spent

    def retire(self) -> None:
        """Keep no stock any more."""
        self.free, self._taken, self._demand = 0, 0, 0.0

    @property
    def idle(self) -> bool:
        """Nothing to report and nothing to give back."""
        return not (self.free or self.busy or self.spent or self._taken or self._demand)

    def resets_in(self, now: float) -> float:
        """Seconds until all that this process used is free again."""
        return max(0.0, self._cooling[-1][0] - now) if self._cooling else 0.0

    def retry_in(self, units: int, now: float) -> float:
        """Seconds after which `units` may be there: from what cools here, else from when the first unit cools anywhere."""
        free = self.free + max(self.left, 0)
        for until, cooled in self._cooling:
            free += int(cooled)
            if free >= units:
                return until - now
        return (self.frees_at or now + 1.0) - now


def _needs(waiting: Sequence[int], stock: int) -> tuple[int, ...]:
    """What requests that wait for so many units each lack when they share `stock` in turn."""
    needs = []
    for units in waiting:
        if units > stock:
            needs.append(units - stock)
        stock = max(0, stock - units)
    return tuple(needs)
