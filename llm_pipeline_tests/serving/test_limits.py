"""Limits of keys over several gateway processes; time is a number that the tests move, only processes of their own use real time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.protection.keys import Key, Limits
from llm_pipeline.serving.protection.leases import DEAD_SECONDS, Ledger, Order, month_ends
from llm_pipeline.serving.protection.leases import used as used_of
from llm_pipeline.serving.protection.limits import Limiter, LimitError, Protection
from llm_pipeline.serving.traffic.database import open_database

PAUSES = (0, 0, 0, 0, 1, 7, 30)
START = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def a_key(**limits: float) -> Key:
    return Key(1, "app", frozenset({"chat"}), limits=Limits(**limits))  # type: ignore[arg-type]


@asynccontextmanager
async def limiters(db: sa.Engine, clock: Clock, count: int = 1) -> AsyncIterator[list[Limiter]]:
    made = [Limiter(db, clock, round_seconds=0.01) for _ in range(count)]
    try:
        yield made
    finally:
        for limiter in made:
            await limiter.close()


async def asked(limiter: Limiter, key: Key, tokens: int = 1, used: int | None = None, cost: float = 0.0) -> LimitError | None:
    """One request, done at once; how it was refused, or None."""
    try:
        async with limiter.admit(key, tokens) as permit:
            permit.settle(tokens if used is None else used, cost)
    except LimitError as error:
        return error
    return None


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))  # type: ignore[arg-type]


@pytest.fixture
def db(tmp_path: Path) -> sa.Engine:
    return open_database(tmp_path)


def test_requests_of_a_minute_over_two_processes(db: sa.Engine) -> None:
    async def body() -> None:
        clock, key = Clock(), a_key(requests_per_minute=10)
        async with limiters(db, clock, 2) as two:
            good = [await asked(two[i % 2], key) is None for i in range(30)]
            assert sum(good) == 10
            error = await asked(two[0], key)
            assert error is not None
            assert (error.status, error.code) == (429, "rate_limit_exceeded")
            assert 55 <= int(error.headers()["retry-after"]) <= 61
            assert error.headers()["x-ratelimit-limit-requests"] == "10"
            assert error.headers()["x-ratelimit-remaining-requests"] == "0"
            clock.now += 59
            assert await asked(two[1], key) is not None
            clock.now += 3
            assert sum([await asked(two[i % 2], key) is None for i in range(30)]) == 10

    run(body)


def test_tokens_are_reserved_and_what_was_not_used_comes_back(db: sa.Engine) -> None:
    async def body() -> None:
        clock, key = Clock(), a_key(tokens_per_minute=1000)
        async with limiters(db, clock) as (limiter,):
            async with limiter.admit(key, 900) as permit:
                assert permit.headers()["x-ratelimit-remaining-tokens"] == "100"
                assert await asked(limiter, key, 200) is not None
                permit.settle(100)
            assert await asked(limiter, key, 900) is None
            assert await asked(limiter, key, 1) is not None
            clock.now += 62
            too_large = await asked(limiter, key, 1001)
            assert too_large is not None
            assert too_large.retry_after is None
            assert too_large.headers()["x-should-retry"] == "false"
            async with limiter.admit(key, 10) as permit:
                permit.settle(1500)  # more than was asked: a debt
            assert await asked(limiter, key, 1) is not None
            clock.now += 62
            assert await asked(limiter, key, 1000) is None

    run(body)


def test_a_request_that_is_cancelled_settles_what_it_used_and_one_that_never_says_counts_whole(db: sa.Engine) -> None:
    async def body() -> None:
        clock, key = Clock(), a_key(tokens_per_minute=100, concurrent=1)
        async with limiters(db, clock) as (limiter,):
            begun = asyncio.Event()

            async def request(used: int | None) -> None:
                async with limiter.admit(key, 50) as permit:
                    if used is not None:
                        permit.settle(used)
                    begun.set()
                    await asyncio.Event().wait()

            for used in (10, None):
                task = asyncio.create_task(request(used))
                await begun.wait()
                begun.clear()
                busy = await asked(limiter, key, 1)
                assert busy is not None
                assert "1 requests at once" in busy.message
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert await asked(limiter, key, 41) is not None
            assert await asked(limiter, key, 40) is None

    run(body)


def test_places_are_shared_by_the_processes_and_come_back(db: sa.Engine) -> None:
    async def body() -> None:
        clock, key = Clock(), a_key(concurrent=3)
        async with limiters(db, clock, 2) as (a, b):
            permits = [limiter.admit(key, 1) for limiter in (a, b, a)]
            for permit in permits:
                await permit.__aenter__()
            assert await asked(b, key) is not None
            await permits[0].__aexit__(None, None, None)
            await until(lambda: asked(b, key))
            for permit in permits[1:]:
                await permit.__aexit__(None, None, None)

    run(body)


async def until(attempt: Callable[[], Awaitable[LimitError | None]]) -> None:
    while await attempt() is not None:
        await asyncio.sleep(0.01)


def test_budgets_of_a_month_survive_a_restart_and_end_with_it(db: sa.Engine) -> None:
    async def body() -> None:
        clock, key = Clock(), a_key(monthly_tokens=1000, monthly_cost=0.5)
        async with limiters(db, clock) as (limiter,):
            assert await asked(limiter, key, 500, used=400, cost=0.1) is None
        clock.now += 3600
        async with limiters(db, clock) as (limiter,):
            assert used_of(db, 1, clock.now) == {"month_tokens": 400, "month_cost": 100_000}
            error = await asked(limiter, key, 601)
            assert error is not None
            assert error.code == "quota_exceeded"
            assert error.retry_after == int(month_ends(clock.now) - clock.now)
            assert await asked(limiter, key, 100, cost=0.4) is None
            refused = await asked(limiter, key, 100)
            assert refused is not None
            assert "a cost of 0.5 a month" in refused.message
            while used_of(db, 1, clock.now)["month_tokens"] < 500:
                await asyncio.sleep(0.01)
            clock.now = month_ends(clock.now) + 1
            assert await asked(limiter, key, 1000) is None

    run(body)


def test_protection_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "protection.yaml"
    path.write_text("{in_flight: 8, queue: 0, body_seconds: 2.5}")
    assert load(Protection, path) == Protection(in_flight=8, queue=0, body_seconds=2.5)
    path.write_text("{in_flight: 0}")
    with pytest.raises(ConfigError, match="in_flight: received 0"):
        load(Protection, path)
    path.write_text("{in_fligth: 8}")
    with pytest.raises(ConfigError, match="did you mean 'in_flight'"):
        load(Protection, path)


def test_other_limits_of_a_key_hold_at_once(db: sa.Engine) -> None:
    async def body() -> None:
        clock = Clock()
        async with limiters(db, clock) as (limiter,):
            assert await asked(limiter, a_key(requests_per_minute=1)) is None
            assert await asked(limiter, a_key(requests_per_minute=1)) is not None
            clock.now += 1
            wider = a_key(requests_per_minute=3, concurrent=5)
            assert sum([await asked(limiter, wider) is None for _ in range(5)]) == 2
            assert await asked(limiter, a_key()) is None
            assert await asked(limiter, a_key(requests_per_minute=2)) is not None

    run(body)


def test_what_a_killed_process_held(db: sa.Engine) -> None:
    """Places come back, units of a minute a minute later, and of a month's budget all of it counts as used."""
    dead = Ledger(db, "dead")
    kinds = ("concurrent", "requests", "month_tokens")
    dead.sync([Order(1, kind, 8, busy=0, stock=0, needs=(8,)) for kind in kinds], START)
    left = [Order(1, kind, 8, busy=0, stock=0) for kind in kinds]

    def seen(after: float) -> list[int]:
        return [answer.left for answer in Ledger(db, "alive").sync(left, START + after)]

    assert seen(DEAD_SECONDS - 1) == [0, 0, 0]
    assert seen(DEAD_SECONDS + 1) == [8, 0, 0]
    assert seen(DEAD_SECONDS + 61) == [8, 8, 0]
    assert used_of(db, 1, START) == {"month_tokens": 8}
    [answer] = dead.sync([Order(1, "month_tokens", 8, busy=0, stock=8, needs=(1,))], START + 200)
    assert answer.lost
    assert answer.granted == 0


def test_leases_shrink_near_the_limit(db: sa.Engine) -> None:
    ledger = Ledger(db, "a")
    [first] = ledger.sync([Order(1, "tokens", 1000, busy=0, stock=0, needs=(100,), extra=900)], START)
    assert first.granted == 100 + 900 // 8
    [late] = ledger.sync([Order(1, "tokens", 1000, busy=990, stock=0, needs=(5,), extra=900)], START)
    assert late.granted == 5


def test_without_the_database_a_process_spends_what_it_holds_and_then_says_503(db: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        clock, key = Clock(), a_key(requests_per_minute=1000)
        async with limiters(db, clock) as (limiter,):
            assert await asked(limiter, key) is None

            def away(*_: object) -> None:
                raise sa.exc.OperationalError("select", {}, OSError("the server is away"))

            with monkeypatch.context() as patch:
                patch.setattr(limiter._ledger, "sync", away)
                answered, refusal = 0, None
                while refusal is None:
                    try:
                        assert await asked(limiter, key) is None
                        answered += 1
                    except HttpError as error:
                        refusal = error
                assert 1 < answered < 1000
                assert (refusal.status, refusal.code) == (503, "limits_unavailable")
            assert await asked(limiter, key) is None

    run(body)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    limit=st.integers(1, 60),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(0, 12), st.sampled_from([0, 0, 0, 0, 1, 7, 30])), max_size=40
    ),
)
def test_no_minute_holds_more_than_the_limit(tmp_path_factory: pytest.TempPathFactory, limit: int, steps: list[tuple[int, ...]]) -> None:
    """Three processes, any requests, any settlement up to what was asked, any pauses."""

    async def body() -> None:
        clock, key = Clock(), a_key(tokens_per_minute=limit, monthly_tokens=3 * limit)
        done: list[tuple[float, int]] = []
        db = open_database(tmp_path_factory.mktemp("limits"))
        async with limiters(db, clock, 3) as three:
            for which, tokens, used, pause in steps:
                if await asked(three[which], key, tokens, used=min(used, tokens)) is None:
                    done.append((clock.now, min(used, tokens)))
                clock.now += pause
        for at, _ in done:
            assert sum(used for when, used in done if at <= when < at + 60) <= limit
        assert sum(used for _, used in done) <= 3 * limit
        counted = used_of(db, 1, clock.now).get("month_tokens", 0)
        assert counted >= sum(used for _, used in done)
        if clock.now - START < DEAD_SECONDS:  # else one of them may have been given up, and its stock counted
            assert counted == sum(used for _, used in done)
        db.dispose()

    run(body)


WORKER = """
import asyncio, sys
from pathlib import Path
from llm_pipeline.serving.traffic.database import open_database
from llm_pipeline.serving.protection.keys import Key, Limits
from llm_pipeline.serving.protection.limits import Limiter, LimitError, Protection

async def main(where):
    limiter = Limiter(open_database(Path(where) if where.startswith("/") else where))
    key = Key(1, "app", frozenset(), limits=Limits(requests_per_minute=200, monthly_tokens=5000))
    good = 0
    async def talk():
        nonlocal good
        refused = 0
        while refused < 40:
            try:
                async with limiter.admit(key, 10) as permit:
                    await asyncio.sleep(0)
                    permit.settle(7)
                good += 1
            except LimitError:
                refused += 1
                await asyncio.sleep(0.02)
    await asyncio.gather(*(talk() for _ in range(8)))
    if len(sys.argv) > 2:
        print(good, flush=True)
        sys.stdin.read()
    await limiter.close()
    print(good)

asyncio.run(main(sys.argv[1]))
"""


def _processes(where: str) -> int:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, where], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    return sum(int(worker.communicate(timeout=60)[0]) for worker in workers)


def test_three_processes_admit_exactly_the_limit_together(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    assert _processes(str(tmp_path)) == 200
    assert used_of(db, 1, time.time()) == {"month_tokens": 1400}


@pytest.mark.slow
def test_the_same_on_postgresql(postgres: str) -> None:
    where = postgres.replace("postgresql://", "postgresql+psycopg2://")
    db = open_database(where)
    assert _processes(where) == 200
    assert used_of(db, 1, time.time()) == {"month_tokens": 1400}
    db.dispose()
