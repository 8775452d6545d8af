"""One verdict for every canary metric, looked at after each request: each is turned into bad events, which `evidence` weighs."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.traffic.evidence import EProcess, ExactTest, NonInferiority

INCIDENT_SECONDS = 1.0
"""Slow answers closer together than this have one cause, such as a busy machine, so the first of them stands for all."""
METRICS = ("error", "slow", "guardrail", "empty", "feedback", "judge")
REMEMBERED = 20_000
"""Interactions to which feedback and judgements, which come later, are still joined."""
CALM = 5.0
"""A rollout goes on only while no metric's e-value is above this; one bad event alone does not reach it."""
CONFIDENCE = 0.95
"""That a release which gets everybody is not too bad, for each metric."""
Verdict = Literal["wait", "advance", "rollback", "hold"]


class Share:
    """The canary's share among recent requests of a step, pulled towards what traffic says while there are few.

    With sticky users the share of requests differs from the share of users, so it is measured.
    """

    def __init__(self, window: int = 1000, prior_weight: float = 50.0) -> None:
        self._recent: deque[bool] = deque(maxlen=window)
        self._canary = 0
        self._prior_weight = prior_weight

    def before(self, prior: float) -> float:
        share = (self._canary + prior * self._prior_weight) / (len(self._recent) + self._prior_weight)
        return min(max(share, 0.001), 0.999)

    def add(self, canary: bool) -> None:
        self._canary += canary - (self._recent[0] if len(self._recent) == self._recent.maxlen else 0)
        self._recent.append(canary)


@dataclass(frozen=True)
class RolloutConfig:
    """How traffic moves to a new release."""

    strategy: Literal["auto", "all_at_once", "blue_green", "rolling", "canary", "shadow", "ab"] = "auto"
    """auto: all at once when nothing is deployed, else canary. shadow: mirrored and judged, answers nobody. ab: until a person decides."""
    steps: tuple[float, ...] = (0.1, 0.5)
    """canary: the new release's share in each step."""
    share: float = 0.5
    """ab: the new release's share of the users."""
    shadow_requests: int = 0
    """canary: mirrored requests to judge before the first step. shadow: 0 means `step_requests`."""
    step_requests: int = 200
    """Requests (of both releases) to see in each step before the next."""
    least_canary: int = 10
    """Requests of the new release to see in each step."""
    most_requests: int = 2000
    """Requests of a step after which an undecided rollout is held: never promoted by default."""
    max_seconds: float = 900.0
    """Time for all of it; an A/B test takes as long as it takes."""
    alpha: float = 0.01
    """Chance of rolling back a release that is no worse, for each metric."""
    consecutive_failures: int = 5
    """Failures of the new release in a row, none of the old one's between, that end the rollout at once, unless chance explains them."""
    judge_floor: float = 0.5
    """A judge's score below this is a bad event."""
    allowed_rise: float = 0.04
    """canary: the new release gets everybody once the share of its requests with a bad event is shown (95%, for each metric, however
    often that is looked at) to be less than twice the old one's, or less than this much above it; 1 asks for nothing."""
    parity: bool = True
    """blue_green: first compare the engine's answers to those of the model as it was trained."""

    def __post_init__(self) -> None:
        if not self.steps or any(not 0 < share < 1 for share in (*self.steps, self.share)):
            raise ConfigError(f"rollout: received steps {self.steps} and share {self.share}, expected shares between 0 and 1")
        if not (0 < self.alpha < 1 and 0 <= self.allowed_rise <= 1):
            raise ConfigError(f"rollout: received alpha {self.alpha} and allowed_rise {self.allowed_rise}, expected 0 to 1")


def bad_events(row: Mapping[str, Any], slow_seconds: float | None) -> dict[str, bool]:
    """Which bad events an interaction is; `slow_seconds` bounds the time to the first token."""
    answered = row["finish_reason"] in ("stop", "length")
    first = row["seconds"].get("first_token")
    return {
        "error": row["finish_reason"] == "error",
        "slow": slow_seconds is not None and first is not None and first > slow_seconds,
        "guardrail": any(rule.startswith("output:") for rule in row["guardrails"]),
        "empty": answered and not row["answer"].strip(),
    }


class Monitor:
    """All evidence of one rollout, fed interaction by interaction."""

    def __init__(
        self, canary: str, stable: str, config: RolloutConfig, slow_seconds: float | None = None, *, mirrored: bool = False
    ) -> None:
        self.canary, self.stable, self.config, self.slow_seconds, self.mirrored = canary, stable, config, slow_seconds, mirrored
        self.exact = {metric: ExactTest(config.alpha) for metric in METRICS}
        """What takes the canary back."""
        self.tests = {metric: EProcess() for metric in METRICS}
        """Evidence that the canary is worse, for whoever looks."""
        self.opposite = {metric: EProcess() for metric in METRICS}
        """Evidence that the stable release is worse."""
        self.proofs = {metric: NonInferiority(config.allowed_rise) for metric in METRICS if config.allowed_rise < 1}
        """Evidence that the canary is good enough for everybody."""
        self.bad = {metric: {"canary": 0, "stable": 0} for metric in METRICS}
        self._share = Share()
        self._streak, self._streak_chance = 0, 1.0
        self._incident: datetime | None = None
        self._answered: OrderedDict[str, tuple[bool, float, dict[str, float]]] = OrderedDict()
        self._opinions: set[tuple[str, str]] = set()
        self.step_counts = {"canary": 0, "stable": 0}
        self.counts = {"canary": 0, "stable": 0}

    def next_step(self) -> None:
        self.step_counts = {"canary": 0, "stable": 0}
        self._share = Share()

    def add(self, row: Mapping[str, Any], share: float) -> None:
        """Count one interaction, `share` being what traffic gives the canary now.

        Other releases', abandoned and remembered answers don't count; one that another release had to give counts for the arm that it
        was assigned to.
        """
        canary = self._arm(row)
        if canary is None:
            return
        arm, before = "canary" if canary else "stable", self._share.before(share)
        self._share.add(canary)
        self.counts[arm] += 1
        self.step_counts[arm] += 1
        events = bad_events(row, self.slow_seconds)
        events["slow"] = events["slow"] and self._new_incident(row)
        stakes = {metric: proof.add(canary=canary, share=before) for metric, proof in self.proofs.items()}
        for metric in (name for name, bad in events.items() if bad):
            self._count(metric, canary, before, stakes)
        for test in self.exact.values():
            test.look(sum(self.counts.values()))
        if events["error"] and canary:
            self._streak, self._streak_chance = self._streak + 1, self._streak_chance * before
        elif events["error"] or canary:
            self._streak, self._streak_chance = 0, 1.0
        self._answered[str(row.get("id"))] = (canary, before, stakes)
        while len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)

    def add_opinion(self, metric: Literal["feedback", "judge"], row: Mapping[str, Any]) -> None:
        """Count what a user (`rating`) or a judge (`score`) said of an interaction, when it is bad and the first such."""
        identity = str(row.get("interaction_id"))
        value = row.get("rating") if metric == "feedback" else row.get("score")
        value = {"up": 1.0, "down": -1.0}.get(value) if isinstance(value, str) else value
        floor = 0.0 if metric == "feedback" else self.config.judge_floor
        if value is None or value >= floor or identity not in self._answered or (metric, identity) in self._opinions:
            return
        self._opinions.add((metric, identity))
        self._count(metric, *self._answered[identity])

    def _count(self, metric: str, canary: bool, share: float, stakes: Mapping[str, float]) -> None:
        self.exact[metric].add(canary=canary, share=share)
        self.exact[metric].look(sum(self.counts.values()))
        self.tests[metric].add(canary=canary, share=share)
        self.opposite[metric].add(canary=not canary, share=1 - share)
        if metric in self.proofs:
            self.proofs[metric].turn(stakes[metric])
        self.bad[metric]["canary" if canary else "stable"] += 1

    def _arm(self, row: Mapping[str, Any]) -> bool | None:
        """Whether an interaction is the canary's; None when it is not to be counted."""
        shadow = row.get("variant") == "shadow"
        assigned = row["release"] if shadow else row.get("variant") or row["release"]
        if row["finish_reason"] == "cancelled" or row.get("cache") in ("hit", "semantic"):
            return None
        if assigned not in (self.canary, self.stable) or any(rule.startswith("input:") for rule in row["guardrails"]):
            return None
        if shadow != (self.mirrored and assigned == self.canary):
            return None
        return bool(assigned == self.canary)

    def _new_incident(self, row: Mapping[str, Any]) -> bool:
        """Whether a slow answer is not of the incident that the last one counted began, whichever release that was."""
        at = datetime.fromisoformat(row["received_at"])
        if self._incident is not None and abs((at - self._incident).total_seconds()) < INCIDENT_SECONDS:
            return False
        self._incident = at
        return True

    def verdict(self, needed: int | None = None, *, last: bool = False) -> tuple[Verdict, str]:
        """What the evidence says now, and why.

        `needed` requests end a step, instead of the rollout's own number; after the `last` one, the release gets everybody.
        """
        config, step = self.config, self.step_counts["canary"] + self.step_counts["stable"]
        worst = max(self.tests, key=lambda metric: self.tests[metric].value)
        evidence = self.tests[worst].value
        if self._streak >= config.consecutive_failures and self._streak_chance < config.alpha / 100:
            return "rollback", f"{self._streak} failures in a row"
        if ended := next((metric for metric, test in self.exact.items() if test.ended), None):
            bad, against = self.bad[ended], self.tests[ended].value
            return "rollback", f"{ended}: {bad['canary']} of {sum(bad.values())} bad events are the new release's (e-value {against:.1f})"
        needed = config.step_requests if needed is None else needed
        enough = step >= needed and self.step_counts["canary"] >= config.least_canary
        unproven = self._unproven() if last else None
        if enough and evidence < CALM and not unproven:
            return "advance", f"{step} requests, largest e-value {evidence:.2f} ({worst})"
        if step >= max(config.most_requests, needed):
            return "hold", f"undecided after {step} requests: {unproven or f'{worst} has e-value {evidence:.1f}'}"
        return "wait", unproven if enough and unproven else f"{step} of {needed} requests, {self.step_counts['canary']} on the new release"

    def _unproven(self) -> str | None:
        """The first metric of which the canary's bad events may still be too many, in words."""
        for metric, proof in self.proofs.items():
            if proof.log < -math.log(1 - CONFIDENCE):
                seen = ", ".join(f"{bad} of {self.counts[arm]} bad ({arm})" for arm, bad in self.bad[metric].items())
                more = f"twice as many bad requests, and {self.config.allowed_rise:.1%} more"
                return f"{metric}: {more}, are not ruled out: {seen}, e-value {math.exp(proof.log):.1f}"
        return None

    def summary(self) -> dict[str, Any]:
        return {
            "requests": dict(self.counts),
            "bad": {metric: dict(counts) for metric, counts in self.bad.items()},
            "e_values": {m: round(t.value, 4) for m, t in self.tests.items()},
            "e_values_opposite": {m: round(t.value, 4) for m, t in self.opposite.items()},
            "e_values_good_enough": {m: round(math.exp(min(p.log, 600.0)), 4) for m, p in self.proofs.items()},
            "slow_seconds": self.slow_seconds,
        }


def slow_threshold(rows: list[dict[str, Any]], release: str, *, least: int = 50, floor: float = 0.05) -> float | None:
    """The 95th percentile of the stable release's time to the first token, or None when too few were seen."""
    times = sorted(row["seconds"]["first_token"] for row in rows if row["release"] == release and "first_token" in row["seconds"])
    return max(floor, times[math.ceil(0.95 * len(times)) - 1]) if len(times) >= least else None
