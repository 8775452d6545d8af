"""What a request holds of its key's limits while it runs, and what it is told when it may not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.protection.keys import Limits
from llm_pipeline.serving.protection.leases import CONCURRENT, KINDS, MICRO, MONTH_COST, MONTH_TOKENS, REQUESTS, TOKENS
from llm_pipeline.serving.protection.pools import Pool

NO_LIMITS = Limits()


class Giver(Protocol):
    """What a permit needs of the limiter."""

    active: set[Pool]
    trusted_until: float

    def clock(self) -> float: ...
    async def wait_for(self, account: Account, wants: list[tuple[Pool, int]]) -> float: ...


class LimitError(HttpError):
    """429: one of the key's limits is reached; says which, and when to come back."""

    def __init__(self, message: str, code: str, retry_after: float | None, headers: dict[str, str]) -> None:
        seconds = None if retry_after is None else max(1, math.ceil(retry_after))
        super().__init__(429, message, code=code, retry_after=seconds)
        self._headers = headers

    def headers(self) -> dict[str, str]:
        never = {"x-should-retry": "false"} if self.retry_after is None else {}
        return super().headers() | self._headers | never


class Account:
    """The pools of one key in this process."""

    __slots__ = ("limits", "name", "pools")

    def __init__(self) -> None:
        self.limits, self.name = NO_LIMITS, ""
        self.pools: dict[str, Pool] = {}

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's x-ratelimit-* of the limits that the key has."""
        found = {}
        for kind in (REQUESTS, TOKENS):
            if pool := self.pools.get(kind):
                found[f"x-ratelimit-limit-{kind}"] = str(pool.limit)
                found[f"x-ratelimit-remaining-{kind}"] = str(max(0, pool.free + pool.left))
                found[f"x-ratelimit-reset-{kind}"] = f"{pool.resets_in(now):.1f}s"
        return found


class Permit:
    """One request's place within the limits; what is never settled counts as all that was asked."""

    __slots__ = ("_account", "_cost", "_limiter", "_taken", "_tokens")

    def __init__(self, limiter: Giver, account: Account, tokens: int, cost: int) -> None:
        self._limiter, self._account, self._tokens, self._cost = limiter, account, tokens, cost
        self._taken: Sequence[tuple[Pool, int, list[float] | None]] = ()

    def settle(self, tokens: int, cost: float = 0.0) -> None:
        """Say what the request really used, also when it was cancelled; the last call counts, when the request ends."""
        self._tokens, self._cost = tokens, math.ceil(cost * MICRO)

    def headers(self) -> dict[str, str]:
        return self._account.headers(self._limiter.clock())

    async def __aenter__(self) -> Permit:
        limiter, now = self._limiter, self._limiter.clock()
        wants, short = [], now > limiter.trusted_until
        of = {REQUESTS: 1, CONCURRENT: 1, TOKENS: self._tokens or 1, MONTH_TOKENS: self._tokens or 1, MONTH_COST: self._cost or 1}
        for kind, pool in self._account.pools.items():
            units = of[kind]
            wants.append((pool, units))
            short = short or pool.lacks(units, now)
        if short:
            now = await limiter.wait_for(self._account, wants)
        self._taken = [(pool, units, pool.take(units, now)) for pool, units in wants]
        limiter.active.update(self._account.pools.values())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        now = self._limiter.clock()
        of = {REQUESTS: 1, CONCURRENT: 1, TOKENS: self._tokens, MONTH_TOKENS: self._tokens, MONTH_COST: self._cost}
        for pool, units, taken in self._taken:
            pool.settle(units, of[pool.kind], taken, now)
        self._limiter.active.update(self._account.pools.values())


class Unlimited:
    """The permit of a key without limits."""

    __slots__ = ()

    def settle(self, tokens: int, cost: float = 0.0) -> None:
        return None

    def headers(self) -> dict[str, str]:
        return {}

    async def __aenter__(self) -> Unlimited:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


UNLIMITED = Unlimited()


def units_of(limits: Limits) -> dict[str, int]:
    """Kind -> limit in whole units, of the limits that are set."""
    cost = None if limits.monthly_cost is None else math.floor(limits.monthly_cost * MICRO)
    values = (limits.requests_per_minute, limits.tokens_per_minute, limits.concurrent, limits.monthly_tokens, cost)
    return {kind: value for kind, value in zip(KINDS, values, strict=True) if value is not None}


WORDS = {
    REQUESTS: "{} requests a minute",
    TOKENS: "{} tokens a minute",
    CONCURRENT: "{} requests at once",
    MONTH_TOKENS: "{} tokens a month",
    MONTH_COST: "a cost of {} a month",
}


def shown(kind: str, units: int) -> str:
    return f"{units / MICRO:g}" if kind == MONTH_COST else str(units)
