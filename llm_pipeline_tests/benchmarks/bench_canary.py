"""The canary's test: how often it takes back a release that is no worse, how fast one that is, and how long the endpoint needs to obey.

The simulations feed `Monitor` as the supervisor does and look after every request. Peers: a z-test that is peeked at after every 50
requests, and the best test that looks only once (exact conditional binomial), which no test that compares the two arms can beat.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llm_pipeline.serving.observability.interactions import latest_rows
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import METRICS, Monitor, RolloutConfig
from llm_pipeline.serving.traffic.state import State
from llm_pipeline.store import Home
from llm_pipeline_tests.serving.conftest import make_release
from llm_pipeline_tests.serving.fake_vllm import write_executable
from llm_pipeline_tests.serving.load import Load

RUNS, REQUESTS = 400, 1500
NEVER = 10**9
START = datetime(2026, 1, 1)


@dataclass(frozen=True)
class Case:
    """No change between the releases; what is bad, and how it comes."""

    name: str
    share: float
    bad: float
    burst: float = 0.0
    """Share of the seconds (of 20 requests) in which half of everything is bad, whichever release answers."""
    users: int = 0
    """Sticky users; 0 is a new one for each request."""


CASES = (
    Case("1% bad", 0.1, 0.01),
    Case("5% bad", 0.25, 0.05),
    Case("30% bad", 0.5, 0.3),
    Case("1% bad, bursts of 50%", 0.1, 0.01, burst=0.05),
    Case("5% bad, 40 sticky users", 0.1, 0.05, users=40),
)


def row(number: int, canary: bool, bad: dict[str, bool]) -> dict[str, Any]:
    return {
        "id": str(number),
        "release": "new" if canary else "old",
        "received_at": (START + timedelta(seconds=number / 20)).isoformat(),
        "finish_reason": "error" if bad["error"] else "stop",
        "seconds": {"first_token": 1.0 if bad["slow"] else 0.01},
        "guardrails": ["output:email"] if bad["guardrail"] else [],
        "answer": "" if bad["empty"] else "x",
    }


def simulate(seed: int, share: float, bad_of: Callable[[int, bool, random.Random], float], n: int, users: int = 0) -> dict[str, int]:
    """The request at which each metric would take the release back; `NEVER` when it would not."""
    r = random.Random(seed)
    monitor = Monitor("new", "old", RolloutConfig(), slow_seconds=0.5)
    mine = [r.random() < share for _ in range(users)]
    caught = dict.fromkeys(METRICS, NEVER)
    for number in range(1, n + 1):
        canary = r.choice(mine) if mine else r.random() < share
        p = bad_of(number, canary, r)
        bad = {metric: r.random() < p for metric in METRICS}
        monitor.add(row(number, canary, bad), share)
        for metric in ("feedback", "judge"):
            if bad[metric]:
                monitor.add_opinion(metric, {"interaction_id": str(number), "rating": -1.0, "score": 0.0})  # type: ignore[arg-type]
        for metric, test in monitor.exact.items():
            if caught[metric] == NEVER and test.ended:
                caught[metric] = number
    return caught


def no_change() -> Table:
    table = Table("no change", "share", *METRICS, "z-test, peeked", title=f"Taken back wrongly, {RUNS} runs of {REQUESTS} requests")
    for case in CASES:
        counts: Counter[str] = Counter()
        for seed in range(RUNS):
            bursts = {second for second in range(REQUESTS // 20 + 1) if random.Random(-seed * 1000 - second - 1).random() < case.burst}

            def bad(number: int, canary: bool, r: random.Random, case: Case = case, bursts: set[int] = bursts) -> float:
                return 0.5 if number // 20 in bursts else case.bad

            found = simulate(seed, case.share, bad, REQUESTS, case.users)
            counts.update(metric for metric, when in found.items() if when != NEVER)
            counts["z"] += peeked(seed, case.share, case.bad, REQUESTS)
        table.add_row(case.name, f"{case.share:.0%}", *(f"{counts[m] / RUNS:.1%}" for m in METRICS), f"{counts['z'] / RUNS:.1%}")
    return table


def peeked(seed: int, share: float, bad: float, n: int, other: float | None = None) -> bool:
    """A one-sided two-sample z-test at 1%, looked at after every 50 requests."""
    r, seen, bads = random.Random(seed), [0, 0], [0, 0]
    for number in range(1, n + 1):
        arm = int(r.random() < share)
        seen[arm] += 1
        bads[arm] += r.random() < (other if other is not None and arm else bad)
        if number % 50 == 0 and min(seen) and sum(bads):
            pooled = sum(bads) / sum(seen)
            error = math.sqrt(pooled * (1 - pooled) * (1 / seen[0] + 1 / seen[1]))
            if error and (bads[1] / seen[1] - bads[0] / seen[0]) / error > 2.326:
                return True
    return False


@cache
def tail(hits: int, events: int, share: float) -> float:
    return sum(math.comb(events, k) * share**k * (1 - share) ** (events - k) for k in range(hits, events + 1))


def looked_at_once(seed: int, share: float, stable: float, canary: float, n: int, alpha: float = 0.01) -> bool:
    """The exact test of the canary's part in all bad events, after `n` requests."""
    r, bads = random.Random(seed), [0, 0]
    for _ in range(n):
        arm = int(r.random() < share)
        bads[arm] += r.random() < (canary if arm else stable)
    return tail(bads[1], sum(bads), share) <= alpha


def worse() -> Table:
    runs = 2 * RUNS
    table = Table(
        "bad events",
        "share",
        "within",
        "caught",
        "median requests",
        "users exposed",
        "looked at once",
        title=f"A worse release, {runs} runs",
    )
    for canary, share, n in ((0.05, 0.1, 1500), (0.1, 0.1, 600), (0.1, 0.25, 600), (0.1, 0.1, 1000), (0.5, 0.1, 600)):

        def bad(number: int, is_canary: bool, r: random.Random, canary: float = canary) -> float:
            return canary if is_canary else 0.01

        when = [simulate(seed, share, bad, n)["error"] for seed in range(runs)]
        once = sum(looked_at_once(seed, share, 0.01, canary, n) for seed in range(runs)) / runs
        caught = sum(w <= n for w in when) / runs
        median = statistics.median(when)
        exposed = statistics.fmean(min(w, n) * share for w in when) / 10_000
        table.add_row(
            f"1% -> {canary:.0%}",
            f"{share:.0%}",
            str(n),
            f"{caught:.0%}",
            "-" if median == NEVER else f"{median:.0f}",
            f"{exposed:.2%}",
            f"{once:.0%}",
        )
    return table


def whole_rollout() -> Table:
    """The default steps from beginning to end, 10,000 users who ask once each."""
    runs, table = (
        RUNS,
        Table("canary's errors", "promoted", "taken back", "held", "median requests", "users exposed", title="Default rollout, 1% before"),
    )
    for canary_bad in (0.01, 0.05, 0.1, 0.5):
        verdicts: Counter[str] = Counter()
        lengths, exposed = [], []
        for seed in range(runs):
            r, config = random.Random(seed), RolloutConfig()
            monitor, step, number, answered = Monitor("new", "old", config), 0, 0, 0
            while True:
                number += 1
                canary = r.random() < config.steps[step]
                answered += canary
                bad = dict.fromkeys(METRICS, False) | {"error": r.random() < (canary_bad if canary else 0.01)}
                monitor.add(row(number, canary, bad), config.steps[step])
                verdict, _ = monitor.verdict(last=step + 1 == len(config.steps))
                if verdict == "advance" and step + 1 < len(config.steps):
                    step += 1
                    monitor.next_step()
                elif verdict != "wait":
                    break
            verdicts[verdict] += 1
            lengths.append(number)
            exposed.append(answered / 10_000)
        shares = [f"{verdicts[name] / runs:.1%}" for name in ("advance", "rollback", "hold")]
        table.add_row(f"{canary_bad:.0%}", *shares, f"{statistics.median(lengths):.0f}", f"{statistics.fmean(exposed):.2%}")
    return table


def real_run() -> Table:
    """A release that fails every request, on a real endpoint of two gateways: from the verdict until no gateway asks it any more."""
    table = Table("what", "seconds", title="A failing release on a real endpoint, two gateways")
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        try:
            endpoint = client.ensure_up(home, timeout=120, gateways=2)
            release, spec = make_release(Path(folder), "old")

            def deploy(name: str, strategy: str, *options: str) -> Any:
                engine = {"name": "vllm", "executable": write_executable(Path(folder) / name, *options)}
                made = replace(release, model=name, engine=engine)
                config = RolloutConfig(strategy=strategy, steps=(0.1, 0.5))  # type: ignore[arg-type]
                return client.wait(home, client.deploy(home, made, replace(spec, model_path=name), config), 120)

            deploy("old", "all_at_once")
            with Load(endpoint.url, endpoint.key, 4):
                found = deploy("bad", "canary", "--fail")
            rows = [
                r
                for r in latest_rows(home.endpoint / "interactions", 10**5)
                if r["variant"] == found.release or r["release"] == found.release
            ]
            last = max(datetime.fromisoformat(r["received_at"]).timestamp() for r in rows)
            verdict, settled = found.evidence["verdict_at"], found.evidence["settled_at"]
            at = next(record["at"] for record in State(home.endpoint).history() if record["revision"] == found.evidence["revision"])
            table.add_row(f"verdict ({found.evidence['reason']}) -> weight 0 written", f"{at - verdict:.3f}")
            table.add_row("verdict -> every gateway acts on it", f"{settled - verdict:.3f}")
            table.add_row("verdict -> last request that it was given", f"{max(0.0, last - verdict):.3f}")
            table.add_row("requests that it was given", str(len(rows)))
        finally:
            client.down(home)
    return table


def main() -> None:
    console = Console(width=150)
    for part in (no_change, worse, whole_rollout, real_run):
        console.print(part())


if __name__ == "__main__":
    main()
