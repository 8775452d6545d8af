"""What a request may cost the endpoint (`Protection`) and what a key may ask of it (`Limiter`), over all gateway processes together.

    limiter = Limiter(db)
    async with limiter.admit(key, tokens_asked) as permit:  # raises LimitError, a 429
        ...
        permit.settle(tokens, cost)

A request within its key's limits costs some microseconds: each process spends units that it holds (pools.py), and a task of its
own exchanges them with the shared counters (leases.py) in rounds, on a thread. Only a request that finds too few units waits for
the next round.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.protection.keys import Key
from llm_pipeline.serving.protection.leases import (
    CONCURRENT,
    DEAD_SECONDS,
    MICRO,
    MONTHLY,
    Ledger,
    Order,
    month_ends,
)
from llm_pipeline.serving.protection.permits import NO_LIMITS, UNLIMITED, WORDS, Account, LimitError, Permit, Unlimited, shown, units_of
from llm_pipeline.serving.protection.pools import Pool

__all__ = ["LimitError", "Limiter", "Permit", "Protection", "Unlimited"]
log = logging.getLogger(__name__)
ROUND_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
TRUST_SECONDS = DEAD_SECONDS * 2 / 3
"""So long after its last contact with the database a process spends what it holds; others take it back a third later."""
WAIT_SECONDS = 3.0
ATTEMPTS = 4


@dataclass(frozen=True)
class Protection:
    """What any one client may cost the endpoint; how long engines are waited for is a setting of each upstream."""

    max_body_bytes: int = 1 << 20
    max_header_bytes: int = 32 << 10
    max_prompt_characters: int = 400_000
    max_output_tokens: int = 4096
    header_seconds: float = 20.0
    """A connection must have sent its request's head by then."""
    body_seconds: float = 20.0
    """The whole body must be there by then: 408 otherwise."""
    keep_alive_seconds: float = 75.0
    send_seconds: float = 30.0
    """A client that takes nothing for so long is dropped, and its answer cancelled."""
    in_flight: int = 256
    """Requests that are worked on at once in one gateway process."""
    queue: int = 1024
    """Requests that may wait for a place; further ones get 429."""
    queue_seconds: float = 10.0
    connections: int = 4096
    secure_headers: bool = True
    hsts_seconds: int = 31_536_000
    """Strict-Transport-Security, sent over TLS only; 0: not sent."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name not in ("queue", "secure_headers", "hsts_seconds")):
                raise ConfigError(f"protection: {name}: received {value}, expected more than 0")


class Limiter:
    """The limits of all keys, as one process of several knows them; used on one event loop."""

    def __init__(self, db: sa.Engine, clock: Callable[[], float] = time.time, round_seconds: float = ROUND_SECONDS) -> None:
        self.clock, self._round_seconds = clock, round_seconds
        self.active: set[Pool] = set()
        """Pools that may have something to report."""
        self.trusted_until = math.inf
        self._ledger = Ledger(db, uuid.uuid4().hex)
        self._accounts: dict[int, Account] = {}
        self._waiting: dict[Pool, list[int]] = {}
        self._thread = ThreadPoolExecutor(1, "limits")
        self._wake = asyncio.Event()
        self._round: asyncio.Future[bool] | None = None
        self._task: asyncio.Task[None] | None = None
        self._reported: dict[Pool, Order] = {}
        self._heard_at, self._fails, self._closing = 0.0, False, False

    def admit(self, key: Key, tokens_asked: int, cost_asked: float = 0.0) -> Permit | Unlimited:
        """The permit to enter; without `cost_asked` a request is admitted while anything is left of the month's cost."""
        if key.limits == NO_LIMITS:
            return UNLIMITED
        account = self._accounts.get(key.id)
        if account is None or account.limits is not key.limits:
            account = self._account(key)
        return Permit(self, account, tokens_asked, math.ceil(cost_asked * MICRO))

    async def close(self) -> None:
        """Give back what is held and write down what was used."""
        if self._task is not None:
            self._closing = True
            self._wake.set()
            await self._task
            for pool in self.active:
                pool.retire()
            await self._exchange()
        self._thread.shutdown()

    def _account(self, key: Key) -> Account:
        account = self._accounts.setdefault(key.id, Account())
        if account.limits != key.limits:
            limits = units_of(key.limits)
            for kind, limit in limits.items():
                account.pools.setdefault(kind, Pool(key.id, kind, limit)).limit = limit
            account.pools = {kind: pool for kind, pool in account.pools.items() if kind in limits}
        account.limits, account.name = key.limits, key.name
        return account

    async def wait_for(self, account: Account, wants: list[tuple[Pool, int]]) -> float:
        """Wait until all that a request wants is there, or raise; what is returned is the time then."""
        short: list[tuple[Pool, int]] = []
        for _ in range(ATTEMPTS):
            now = self.clock()
            short = [(pool, units) for pool, units in wants if pool.lacks(units, now)]
            if not short and now <= self.trusted_until:
                return now
            for pool, units in short:
                if units > pool.limit or pool.empty(units, now, self._round_seconds):
                    raise self._refusal(account, pool, units)
            await self._next_round(wants)
        raise self._refusal(account, *(short or wants)[0])

    async def _next_round(self, wants: list[tuple[Pool, int]]) -> None:
        for pool, units in wants:  # also what is there already, so that no round gives it back
            self._waiting.setdefault(pool, []).append(units)
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._run())
        if self._round is None:
            self._round = loop.create_future()
        self._wake.set()
        try:
            good = await asyncio.wait_for(asyncio.shield(self._round), WAIT_SECONDS)
        except TimeoutError:
            good = False
        if not good:
            raise HttpError(503, "the key's limits cannot be looked up now", code="limits_unavailable", retry_after=1)

    def _refusal(self, account: Account, pool: Pool, units: int) -> LimitError:
        now, asks = self.clock(), f"the key {account.name!r} may use {WORDS[pool.kind].format(shown(pool.kind, pool.limit))}"
        monthly = pool.kind in MONTHLY
        after: float | None = month_ends(now) - now if monthly else 1.0 if pool.kind == CONCURRENT else pool.retry_in(units, now)
        if units > pool.limit:
            asks, after = f"{asks}; this request alone asks for {shown(pool.kind, units)}", None
        code = "quota_exceeded" if monthly else "rate_limit_exceeded"
        return LimitError(asks, code, after, account.headers(now))

    async def _run(self) -> None:
        while not self._closing:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._round_seconds)
            self._wake.clear()
            await self._exchange()

    async def _exchange(self) -> None:
        """One round: report and ask, on the thread, then hand what was granted to the pools."""
        now, waiting, done = self.clock(), self._waiting, self._round
        self._waiting, self._round = {}, None
        asked = {pool: pool.order(waiting.get(pool, ()), now) for pool in self.active | waiting.keys()}
        orders = {pool: order for pool, order in asked.items() if order.news or order != self._reported.get(pool)}
        self.active = {pool for pool in asked if not pool.idle}
        good = True
        if orders or done is not None or (self.active and now - self._heard_at > HEARTBEAT_SECONDS):
            good = await self._send(orders)
        if done is not None and not done.done():
            done.set_result(good)

    async def _send(self, orders: dict[Pool, Order]) -> bool:
        began = self.clock()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._ledger.sync, list(orders.values()), began)
        except Exception as error:  # whatever it is, the next round tries again
            for pool, order in orders.items():
                pool.failed(order)
                self.active.add(pool)
            if not self._fails:
                log.warning("limits cannot be exchanged with the database; what this process holds lasts a while: %s", error)
            self._fails = True
            return False
        for (pool, order), answer in zip(orders.items(), answers, strict=True):
            pool.carried_out(order, answer, self.clock())
            self.active.add(pool)
        self._reported.update(orders)
        self._reported = {pool: order for pool, order in self._reported.items() if pool in self.active}
        self._heard_at, self.trusted_until, self._fails = began, began + TRUST_SECONDS, False
        return True
