"""How often the gate promotes a model that is no better (A/A pairs), and how often it catches one that lost three points.

Two peers decide on the same scores: "higher mean wins" (promote when the primary metric's mean is higher and no guard's is lower),
and the gate's own rule with intervals of an unpaired bootstrap. Pairs are correlated as two models are on the same questions:
276 real pairs of models had about 0.4, a model and its next fine-tuning have 0.6 to 0.8.

"Caught" means that the challenger was not promoted; "rejected" means that the gate claimed the loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from llm_pipeline.evaluation.gate import judge
from llm_pipeline.evaluation.gate_policy import GatePolicy

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
Draw = Callable[[np.random.Generator], Mapping[str, Pair]]
POLICY, RESAMPLES = GatePolicy("primary"), 1_000
CORRELATIONS, SIZES = (0.0, 0.4, 0.8), (200, 400, 1_000)


@dataclass(frozen=True)
class Binary:
    """Right answers: with probability `correlation` one draw decides for both models, else each has its own."""

    n: int
    correlation: float
    champion: float = 0.8
    challenger: float = 0.8

    def __call__(self, rng: np.random.Generator) -> Pair:
        one, two = rng.random((2, self.n))
        two = np.where(rng.random(self.n) < self.correlation, one, two)
        return (one < self.champion).astype(float), (two < self.challenger).astype(float)


@dataclass(frozen=True)
class Graded:
    """Scores from 0 to 1 with a long lower tail, correlated through the question; standard deviation 0.17."""

    n: int
    correlation: float
    gain: float = 0.0

    def __call__(self, rng: np.random.Generator) -> Pair:
        question, one, two = rng.beta(4, 1.5, (3, self.n))
        a, b = (np.where(rng.random(self.n) < np.sqrt(self.correlation), question, own) for own in (one, two))
        return a, b + self.gain


def gate(scores: Mapping[str, Pair]) -> str:
    sides = [{name: dict(zip(ids(len(pair[i])), pair[i].tolist(), strict=True)) for name, pair in scores.items()} for i in (0, 1)]
    return judge(sides[0], sides[1], POLICY).verdict


@cache
def ids(n: int) -> list[str]:
    return [f"{i:05}" for i in range(n)]


def higher_mean(scores: Mapping[str, Pair]) -> str:
    gains = {name: after.mean() - before.mean() for name, (before, after) in scores.items()}
    won = gains["primary"] > 0 and all(gain >= 0 for name, gain in gains.items() if name != "primary")
    return "promote" if won else "reject"


def unpaired_bootstrap(scores: Mapping[str, Pair]) -> str:
    bounds = {name: unpaired_interval(*pair, len(scores)) for name, pair in scores.items()}
    if all(low > (0 if name == "primary" else -POLICY.margin) for name, (low, _) in bounds.items()):
        return "promote"
    return "reject" if any(high < 0 for _, high in bounds.values()) else "insufficient"


def unpaired_interval(before: Array, after: Array, metrics: int) -> tuple[float, float]:
    """The bounds that the gate's rule needs: one to promote, one to reject (Bonferroni)."""
    weights = resamples(len(before))
    low, high = np.quantile(weights[1] @ after - weights[0] @ before, [POLICY.alpha, 1 - POLICY.alpha_reject / metrics])
    return float(low), float(high)


@cache
def resamples(n: int) -> Array:
    """How often each of `n` values is drawn, as weights: two independent sets of samples with replacement."""
    return np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), (2, RESAMPLES)) / n


RULES: dict[str, Callable[[Mapping[str, Pair]], str]] = {
    "gate": gate,
    "unpaired bootstrap": unpaired_bootstrap,
    "higher mean wins": higher_mean,
}


def rates(draw: Draw, runs: int, *seed: object) -> dict[str, Counter[str]]:
    """How often each rule gave each verdict on `runs` draws; `seed` names the case, so that no two cases share a draw."""
    found: dict[str, Counter[str]] = {name: Counter() for name in RULES}
    case = crc32(repr(seed).encode())
    for run in range(runs):
        scores = draw(np.random.default_rng([case, run]))
        for name, rule in RULES.items():
            found[name][rule(scores)] += 1
    return found


def share(counts: Counter[str], verdict: str) -> str:
    return f"{counts[verdict] / counts.total():.3f}"


def equal_models() -> tuple[Table, float]:
    table = Table("scores", "n", "pairs", "promoted: gate", "unpaired bootstrap", "higher mean wins", "rejected: gate")
    table.title = "A/A: both models equally good; the goal is at most 0.05 promoted"
    promoted = total = 0
    draws: list[tuple[str, int, Callable[[int, float], Callable[[np.random.Generator], Pair]]]] = [
        ("0 or 1, 60% right", 600, lambda n, r: Binary(n, r, 0.6, 0.6)),
        ("0 or 1, 80% right", 600, lambda n, r: Binary(n, r)),
        ("0 or 1, 95% right", 600, lambda n, r: Binary(n, r, 0.95, 0.95)),
        ("graded", 300, lambda n, r: Graded(n, r)),
    ]
    for name, runs, make in draws:
        for n in SIZES:
            sums: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
            for correlation in CORRELATIONS:
                pair = make(n, correlation)
                for rule, counts in rates(
                    lambda rng, pair=pair: {"primary": pair(rng)}, runs // len(CORRELATIONS), name, n, correlation
                ).items():  # type: ignore[misc]
                    sums[rule] += counts
            promoted, total = promoted + sums["gate"]["promote"], total + sums["gate"].total()
            table.add_row(
                name, f"{n:,}", str(sums["gate"].total()), *(share(sums[rule], "promote") for rule in RULES), share(sums["gate"], "reject")
            )
    return table, promoted / total


def changed_models(runs: int = 300) -> Table:
    table = Table("planted, n = 1,000", "correlation", "gate: caught", "rejected", "unpaired: caught", "rejected", "higher mean: caught")
    table.title = f"A loss of 3 points, {runs} pairs each; the goal is at least 0.90 caught"
    for correlation in (0.4, 0.6, 0.8):
        cases: dict[str, Draw] = {
            "primary 0.80 -> 0.77": lambda rng, r=correlation: {"primary": Binary(1000, r, 0.8, 0.77)(rng)},  # type: ignore[misc]
            "guard 0.90 -> 0.87, primary +5": lambda rng, r=correlation: {  # type: ignore[misc]
                "primary": Binary(1000, r, 0.8, 0.85)(rng),
                "guard": Binary(1000, r, 0.9, 0.87)(rng),
            },
            "graded guard -3, primary +5": lambda rng, r=correlation: {  # type: ignore[misc]
                "primary": Binary(1000, r, 0.8, 0.85)(rng),
                "guard": Graded(1000, r, -0.03)(rng),
            },
        }
        for name, draw in cases.items():
            found = rates(draw, runs if "graded" not in name else runs // 3, name, correlation)
            caught = {rule: f"{1 - counts['promote'] / counts.total():.3f}" for rule, counts in found.items()}
            table.add_row(
                name, str(correlation), caught["gate"], share(found["gate"], "reject"), caught["unpaired bootstrap"],
                share(found["unpaired bootstrap"], "reject"), caught["higher mean wins"],
            )  # fmt: skip
    return table


def better_models(runs: int = 300) -> Table:
    table = Table("gain on the primary, n = 1,000", "correlation", "gate", "unpaired bootstrap", "higher mean wins")
    table.title = f"Really better: promoted, {runs} pairs each; an equal guard at 0.95 right beside it"
    for gain in (0.03, 0.05):
        for correlation in (0.4, 0.8):
            pair, guard = Binary(1000, correlation, 0.8, 0.8 + gain), Binary(1000, correlation, 0.95, 0.95)
            found = rates(lambda rng, pair=pair, guard=guard: {"primary": pair(rng), "guard": guard(rng)}, runs, gain, correlation)  # type: ignore[misc]
            table.add_row(f"+{gain:.0%}", str(correlation), *(share(found[rule], "promote") for rule in RULES))
    return table


def main() -> None:
    console = Console(width=150)
    table, promoted = equal_models()
    console.print(table)
    console.print(f"False promotions of the gate over all A/A pairs: {promoted:.3f} (goal: at most 0.05)")
    console.print(changed_models())
    console.print(better_models())


if __name__ == "__main__":
    main()
