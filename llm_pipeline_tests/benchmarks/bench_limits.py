"""What limits cost a request, and whether several processes keep them: against the package `limits` (its fastest store, in memory).

python llm_pipeline_tests/benchmarks/bench_limits.py [--limits DIR of a virtual environment with `limits`]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llm_pipeline.serving.protection.keys import Key, Limits
from llm_pipeline.serving.protection.leases import used
from llm_pipeline.serving.protection.limits import Limiter, LimitError
from llm_pipeline.serving.traffic.database import open_database

MUCH = 10**9
CASES = {
    "no limit": Limits(),
    "requests a minute": Limits(requests_per_minute=MUCH),
    "requests and tokens a minute": Limits(requests_per_minute=MUCH, tokens_per_minute=MUCH),
    "all five": Limits(MUCH, MUCH, 1000, MUCH * 1000, 1e6),
}
PEER = """
import asyncio, time
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

async def main():
    for strategy in (FixedWindowRateLimiter, SlidingWindowCounterRateLimiter):
        limiter, item, best = strategy(MemoryStorage()), RateLimitItemPerMinute(10**9), 1e9
        for _ in range(5):
            began = time.process_time()
            for _ in range(4000):
                await limiter.hit(item, "app", "requests")
                await limiter.hit(item, "app", "tokens", cost=100)
            best = min(best, (time.process_time() - began) / 4000)
        print(strategy.__name__, best * 1e6)

asyncio.run(main())
"""


def _key(limits: Limits) -> Key:
    return Key(1, "app", frozenset({"chat"}), limits=limits)


async def cost(limits: Limits, folder: Path, rounds: int = 5, requests: int = 4000) -> float:
    """Least CPU microseconds a request over some rounds, the exchange with the database included."""
    limiter, key, best = Limiter(open_database(folder)), _key(limits), float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for i in range(requests):
            async with limiter.admit(key, 100, 0.001) as permit:
                permit.settle(50, 0.0005)
            if i % 100 == 0:
                await asyncio.sleep(0)
        best = min(best, (time.process_time() - began) / requests)
    await limiter.close()
    return best * 1e6


def peer(folder: Path) -> dict[str, float]:
    done = subprocess.run([folder / "bin" / "python", "-c", PEER], check=True, capture_output=True, text=True)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


async def hammer(folder: Path, limit: int, hold: bool) -> None:
    """Ask as fast as it goes until refused 200 times in a row; print how often it was admitted."""
    limiter, key = Limiter(open_database(folder)), _key(Limits(requests_per_minute=limit, monthly_tokens=10 * limit * 10))
    admitted = refused = 0
    while refused < 200:
        try:
            async with limiter.admit(key, 10) as permit:
                permit.settle(10)
            admitted, refused = admitted + 1, 0
        except LimitError:
            refused += 1
            await asyncio.sleep(0.01)
        if hold and admitted == 20:
            print(admitted, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    await limiter.close()
    print(admitted)


def together(limit: int, processes: int, *, kill: bool = False) -> tuple[list[int], int]:
    """What each of several processes admitted, and the tokens written down; with `kill` the first is killed after 20."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        open_database(folder)
        command = [sys.executable, __file__, "--hammer", name, "--limit", str(limit)]
        workers = [
            subprocess.Popen([*command, *(["--hold"] if kill and i == 0 else [])], stdout=subprocess.PIPE, text=True)
            for i in range(processes)
        ]
        admitted = [int(worker.communicate()[0]) for worker in workers]
        return admitted, used(open_database(folder), 1, time.time()).get("month_tokens", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limits", type=Path, help="virtual environment with the package `limits`")
    parser.add_argument("--hammer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=3000, help="requests a minute in the second table")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hammer:
        return asyncio.run(hammer(options.hammer, options.limit, options.hold))
    console, table = Console(), Table("limits of the key", "CPU us a request", title="Cost of limits, one process")
    with tempfile.TemporaryDirectory() as folder:
        for name, limits in CASES.items():
            table.add_row(name, f"{asyncio.run(cost(limits, Path(folder) / name)):.1f}")
    for name, value in (peer(options.limits) if options.limits else {}).items():
        table.add_row(f"`limits`, {name}, requests and tokens, in memory", f"{value:.1f}")
    console.print(table)
    table = Table("processes", "limit", "admitted", "by each", "tokens written down", title="Requests admitted in a minute")
    for processes, kill in ((1, False), (4, False), (4, True)):
        admitted, tokens = together(options.limit, processes, kill=kill)
        name = f"{processes}, one killed after 20" if kill else str(processes)
        table.add_row(name, str(options.limit), str(sum(admitted)), " ".join(map(str, admitted)), str(tokens))
    console.print(table)


if __name__ == "__main__":
    main()
