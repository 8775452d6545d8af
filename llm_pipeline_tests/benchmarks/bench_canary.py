"""The canary's test: how often it takes back a release that is no worse, how fast one that is, and how long the endpoint needs to obey.

The simulations feed `Monitor` as the supervisor does and look after every request. Peers: a z-test that is peeked at after every 50
requests; an exact test that looks only once; what no test can exceed, whether or not it knows the share of bad requests before; and, for
the proof that a release is good enough for everybody, a bound made for one look (Wilson's) that is looked at after every request.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.optimize import linprog
from scipy.stats import multinomial

from llm_pipeline.serving.observability.interactions import latest_rows
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import METRICS, Monitor, RolloutConfig
from llm_pipeline.serving.traffic.evidence import ExactTest
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
    Case("20% bad", 0.5, 0.2),
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


def simulate(
    seed: int,
    share: float,
    bad_of: Callable[[int, bool, random.Random], float],
    n: int,
    users: int = 0,
    metrics: Sequence[str] = METRICS,
) -> dict[str, int]:
    """The request at which each of the metrics would take the release back; `NEVER` when it would not."""
    r = random.Random(seed)
    monitor = Monitor("new", "old", RolloutConfig(), slow_seconds=0.5)
    mine = [r.random() < share for _ in range(users)]
    caught = dict.fromkeys(METRICS, NEVER)
    for number in range(1, n + 1):
        canary = r.choice(mine) if mine else r.random() < share
        p = bad_of(number, canary, r)
        bad = {metric: metric in metrics and r.random() < p for metric in METRICS}
        monitor.add(row(number, canary, bad), share)
        for metric in ("feedback", "judge"):
            if bad[metric]:
                monitor.add_opinion(metric, {"interaction_id": str(number), "rating": -1.0, "score": 0.0})  # type: ignore[arg-type]
        for metric, test in monitor.exact.items():
            if caught[metric] == NEVER and test.ended:
                caught[metric] = number
        if all(caught[metric] != NEVER for metric in metrics):
            break
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


def false_alarms() -> Table:
    """One metric's exact chance of a false alarm, whomever its bad events fall on; they come at rates that both releases share."""
    clock = np.arange(REQUESTS) / REQUESTS
    drifts = {"steady": np.ones(REQUESTS), "rising fivefold": 1 + 4 * clock, "doubling and halving": 2 ** np.sin(12 * np.pi * clock)}
    table = Table(
        "bad", "share", *drifts, title=f"One metric taken back wrongly within {REQUESTS} requests: mean (and most) of 200 courses"
    )
    for bad, share in ((0.001, 0.1), (0.01, 0.1), (0.05, 0.1), (0.05, 0.5), (0.2, 0.1)):
        found = []
        for drift in drifts.values():
            rng, spent = np.random.default_rng(1), []
            for _ in range(200):
                test, events = ExactTest(0.01), rng.random(REQUESTS) < np.minimum(bad * drift, 1)
                for number in range(REQUESTS):
                    if events[number]:
                        test.add(canary=False, share=share)
                    test.look(number + 1)
                spent.append(test.spent)
            found.append(f"{statistics.fmean(spent):.3%} ({max(spent):.3%})")
        table.add_row(f"{bad:.1%}", f"{share:.0%}", *found)
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


def most_possible(share: float, stable: float, canary: float, n: int, common: NDArray[np.float64], alpha: float = 0.01) -> float:
    """The best chance of any test, randomised ones included, after `n` requests, with `alpha` at each rate that may be `common` to both.

    Both counts of bad events are all that `n` requests say, so this is a linear programme over them (Neyman and Pearson, generalised).
    """
    counts = np.stack(np.meshgrid(np.arange(90), np.arange(60), indexing="ij"), -1).reshape(-1, 2)
    outcomes = np.column_stack([counts, n - counts.sum(1)])

    def chances(stable: float, canary: float) -> Any:
        rates = [(1 - share) * stable, share * canary]
        return multinomial.pmf(outcomes, n, [*rates, 1 - sum(rates)])

    worse = chances(stable, canary)
    found = linprog(-worse, A_ub=[chances(rate, rate) for rate in common], b_ub=np.full(len(common), alpha), bounds=(0, 1))
    return float(-found.fun + 1 - worse.sum())


def worse() -> Table:
    runs = 2 * RUNS
    columns = (
        "bad events",
        "share",
        "within",
        "caught",
        "median requests",
        "users exposed",
        "looked at once",
        "no test more than",
        "rate known",
    )
    table = Table(*columns, title=f"A worse release, {runs} runs")
    cases = ((0.03, 0.1, 1500), (0.05, 0.1, 1500), (0.1, 0.1, 600), (0.1, 0.25, 600), (0.1, 0.1, 1000), (0.2, 0.1, 600), (0.5, 0.1, 600))
    for canary, share, n in cases:

        def bad(number: int, is_canary: bool, r: random.Random, canary: float = canary) -> float:
            return canary if is_canary else 0.01

        when = [simulate(seed, share, bad, n, metrics=["error"])["error"] for seed in range(runs)]
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
            *(f"{most_possible(share, 0.01, canary, n, rates):.1%}" for rates in (np.geomspace(0.002, 0.05, 40), np.array([0.01]))),
        )
    return table


def one_look(monitor: Monitor, bad: int, stable_bad: int) -> bool:
    """Whether Wilson's 95% bound for one look says that the canary is good enough, the stable release being as it was seen."""
    n, z = monitor.counts["canary"], 1.645**2 / monitor.counts["canary"]
    share, stable = bad / n, stable_bad / monitor.counts["stable"]
    highest = (share + z / 2 + math.sqrt(z * share * (1 - share) + z * z / 4)) / (1 + z)
    return highest <= max(2 * stable, stable + monitor.config.allowed_rise)


def one_rollout(seed: int, stable: float, canary: float) -> tuple[str, int, int, bool]:
    """Verdict, requests, those on the canary, and whether a bound for one look would have promoted it before that."""
    r, config = random.Random(seed), RolloutConfig()
    monitor, step, number, peer = Monitor("new", "old", config), 0, 0, False
    while True:
        number += 1
        mine = r.random() < config.steps[step]
        bad = dict.fromkeys(METRICS, False) | {"error": r.random() < (canary if mine else stable)}
        monitor.add(row(number, mine, bad), config.steps[step])
        last = step + 1 == len(config.steps)
        peer |= last and monitor.verdict()[0] == "advance" and one_look(monitor, *monitor.bad["error"].values())
        verdict, _ = monitor.verdict(last=last)
        if verdict == "advance" and not last:
            step += 1
            monitor.next_step()
        elif verdict != "wait":
            return verdict, number, monitor.counts["canary"], peer


def whole_rollout() -> Table:
    """The default steps from beginning to end, 10,000 users who ask once each."""
    columns = ("errors", "promoted", "taken back", "held", "median requests", "users exposed", "promoted by a bound for one look")
    table = Table(*columns, title=f"Default rollout, {RUNS} runs")
    pairs = ((0.001, 0.001), (0.05, 0.05), (0.05, 0.1), *((0.01, canary) for canary in (0.01, 0.02, 0.03, 0.05, 0.1, 0.5)))
    for stable, canary in pairs:
        verdicts, lengths, answered, peers = zip(*(one_rollout(seed, stable, canary) for seed in range(RUNS)), strict=True)
        shares = [f"{verdicts.count(name) / RUNS:.1%}" for name in ("advance", "rollback", "hold")]
        exposed = f"{statistics.fmean(answered) / 10_000:.2%}"
        table.add_row(f"{stable:.1%} -> {canary:.1%}", *shares, f"{statistics.median(lengths):.0f}", exposed, f"{sum(peers) / RUNS:.1%}")
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
    for part in (no_change, false_alarms, worse, whole_rollout, real_run):
        console.print(part())


if __name__ == "__main__":
    main()
