"""Each metric of two models, paired on the examples that both answered, with the part that it plays in the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.gate_policy import GatePolicy, doubtful, matching
from llm_pipeline.evaluation.paired import PairedTest, paired_test, pairs_needed
from llm_pipeline.evaluation.scores import Scores

Role = Literal["primary", "guard", "report"]
OVERLAP = 0.5
"""Least share of the ids of either side that both must have."""
POWER = 0.8


@dataclass(frozen=True)
class Pairing:
    """One metric on the examples that both models answered; the test's differences point to the better side."""

    name: str
    role: Role
    lower: bool
    champion: float
    challenger: float
    margin: float | None
    test: PairedTest
    alpha: float
    minimum: int

    @property
    def change(self) -> float:
        """Challenger minus champion, as measured."""
        return 0.0 - self.test.difference if self.lower else self.test.difference

    @property
    def interval(self) -> tuple[float, float]:
        """Of `change`, two-sided at 1 - 2 alpha."""
        low, high = self.test.interval(self.alpha)
        return (0.0 - high, 0.0 - low) if self.lower else (low, high)

    @property
    def bound(self) -> float:
        """What the difference to the better must surely exceed."""
        return 0.0 if self.role == "primary" else -(self.margin or 0.0)

    @property
    def p_promote(self) -> float:
        return self.test.above(self.bound)

    @property
    def enough(self) -> bool:
        return self.test.n >= self.minimum

    @property
    def holds(self) -> bool:
        return self.p_promote <= self.alpha and self.test.interval(self.alpha)[0] > self.bound

    @property
    def idle(self) -> bool:
        """A primary metric on which the models are equal to within its margin."""
        low, high = self.test.interval(self.alpha)
        return bool(self.role == "primary" and self.margin and -self.margin < low and high < self.margin)

    @property
    def needed(self) -> int | None:
        """Pairs with which a gain like this one (primary), or an equal model (guard), would pass four times of five."""
        return pairs_needed(self.test, self.test.difference if self.role == "primary" else -self.bound, self.alpha, POWER)


def pair_metrics(champion: Scores, challenger: Scores, policy: GatePolicy) -> tuple[list[Pairing], list[str]]:
    """Every metric of the champion, paired: the primary first, then by name; and notes on what only one side has."""
    if lacking := sorted(champion.keys() - challenger.keys()):
        raise InputError(f"the challenger has no scores of {', '.join(lacking)}, which the champion has; it has {', '.join(challenger)}")
    notes = [f"{name}: the champion has no scores of it, not compared" for name in sorted(challenger.keys() - champion.keys())]
    names = sorted(champion)
    if not names:
        raise InputError("no scores on the champion's side")
    lower = {name for given in policy.lower_is_better for name in matching(given, names)}
    notes += [f"{name}: more is taken for better; if less is, declare it (lower_is_better)" for name in names if doubtful(name, lower)]
    silent = {name for given in policy.report_only for name in matching(given, names)}
    margins = {name: value for given, value in policy.margins.items() for name in matching(given, names)}
    tests: dict[str, tuple[PairedTest, float, float]] = {}
    for name in names:
        before, after, note = _pair(name, champion[name], challenger[name])
        notes += note
        test = paired_test(after, before) if name in lower else paired_test(before, after)
        tests[name] = test, sum(before) / len(before), sum(after) / len(after)
    primary, tried = _primary(policy, tests, silent)
    if tried > 1:
        notes.append(f"no primary metric was named: a gain on any of {tried} counts, each at alpha / {tried}; {primary} is the surest")

    def make(name: str) -> Pairing:
        test, before, after = tests[name]
        role: Role = "primary" if name == primary else "report" if name in silent else "guard"
        sizes = [abs(score) for score in champion[name].values()]
        scale = 1.0 if max(sizes) <= 1 else sum(sizes) / len(sizes)
        if role == "primary":
            margin, alpha = margins.get(name) if tried == 1 else None, policy.alpha / tried
        else:
            margin, alpha = margins.get(name, policy.margin * scale), policy.alpha
        return Pairing(name, role, name in lower, before, after, margin, test, alpha, policy.minimum_pairs)

    return [make(name) for name in sorted(names, key=lambda name: (name != primary, name))], notes


def _pair(name: str, champion: Mapping[str, float], challenger: Mapping[str, float]) -> tuple[list[float], list[float], list[str]]:
    both = sorted(champion.keys() & challenger.keys())
    most = max(len(champion), len(challenger))
    if len(both) < OVERLAP * most:
        raise InputError(
            f"{name}: {len(both)} ids stand on both sides, of {len(champion)} (champion) and {len(challenger)} (challenger);"
            f" expected at least {OVERLAP:.0%} of {most}: are these answers to the same examples?"
        )
    alone = len(champion) - len(both), len(challenger) - len(both)
    notes = [f"{name}: ids on one side only do not count: {alone[0]} of the champion, {alone[1]} of the challenger"] if any(alone) else []
    return [champion[i] for i in both], [challenger[i] for i in both], notes


def _primary(policy: GatePolicy, tests: Mapping[str, tuple[PairedTest, float, float]], silent: set[str]) -> tuple[str, int]:
    """The metric that must get better, and among how many it was chosen by its gain."""
    if policy.primary:
        found = matching(policy.primary, tests)
        if len(found) > 1 or found[0] in silent:
            raise ConfigError(f"primary metric {policy.primary!r}: expected one metric that counts, found {', '.join(found)}")
        return found[0], 1
    names = [name for name in tests if name not in silent]
    if not names:
        raise ConfigError(f"report_only: all metrics are in it, none is left to decide by: {', '.join(tests)}")
    return min(names, key=lambda name: (tests[name][0].above(0), name)), len(names)
