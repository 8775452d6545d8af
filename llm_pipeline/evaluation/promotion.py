"""What the pipeline itself asks of a candidate: a bar for the first model, then the gate on the suites of the evaluation report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_pipeline.errors import ConfigError
from llm_pipeline.evaluation.compare import mean_interval
from llm_pipeline.evaluation.gate import Decision, judge
from llm_pipeline.evaluation.gate_policy import GatePolicy
from llm_pipeline.evaluation.pairing import OVERLAP
from llm_pipeline.evaluation.scores import Scores, scores_of

Row = Mapping[str, Any]
METRICS = ("em", "rouge_l", "refused", "grounded", "finished")


@dataclass(frozen=True)
class Guard:
    """A metric that must not fall by more than `margin`."""

    suite: str
    mode: str
    metric: str = "em"
    margin: float = 0.05

    def __post_init__(self) -> None:
        if self.metric not in METRICS or not 0 <= self.margin <= 1:
            raise ConfigError(f"guard {self}: expected a metric of {', '.join(METRICS)} and a margin from 0 to 1")

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.mode}/{self.metric}"


@dataclass(frozen=True)
class Policy:
    """Where a challenger must win, what it must not lose, and how good the first model must be."""

    primary: str = "facts"
    mode: str = "closed"
    guards: tuple[Guard, ...] = ()
    minimum_em: float = 0.5
    """Asked of every challenger on the primary suite; without a champion it is all that is asked."""
    minimum_rows: int = 50
    """Answers to the primary suite without which nothing is decided."""
    alpha: float = 0.05
    """Suites of a hundred questions or so: at 0.025 an equal model would often fail a guard's margin of 0.1."""

    @property
    def name(self) -> str:
        return f"{self.primary}/{self.mode}/em"


def default_policy(primary: str, suites: Mapping[str, str], **options: Any) -> Policy:
    """Guards for the usual suites, judged as customers are answered, over passages: reading and refusing must not get worse.

    `suites` maps a suite to its kind. With 140 paired answers, of which one in five changed, the interval is about 0.06 wide on each side.
    """
    guards = [Guard(name, "retrieval", "refused", 0.1) for name, kind in suites.items() if kind == "refusal"]
    return Policy(primary, guards=(Guard(primary, "retrieval", "em", 0.1), *guards), **options)


def decide(champion_rows: Sequence[Row], challenger_rows: Sequence[Row], policy: Policy) -> Decision:
    """The verdict on rows {suite, mode, id, em, refused, ...}; an empty `champion_rows` means that nothing is deployed yet."""
    challenger, champion = scores_of(score_rows(challenger_rows, policy)), scores_of(score_rows(champion_rows, policy))
    mine = list(challenger.get(policy.name, {}).values())
    if len(mine) < policy.minimum_rows:
        return Decision("insufficient", (f"{policy.name}: {len(mine)} answers, at least {policy.minimum_rows} needed",))
    own = mean_interval(mine)
    alone = {policy.name: {"role": "primary", "challenger": own.mean, "interval_of_challenger": [own.low, own.high], "n": own.n}}
    if own.mean < policy.minimum_em:
        return Decision("reject", (f"{policy.name}: exact match {own}, at least {policy.minimum_em} needed",), alone)
    if not champion_rows:
        return Decision("promote", (f"no champion, and exact match {own} reaches {policy.minimum_em}",), alone)
    both = len(challenger[policy.name].keys() & champion.get(policy.name, {}).keys())
    if both < policy.minimum_rows:
        return Decision("insufficient", (f"{policy.name}: {both} questions answered by both, {policy.minimum_rows} needed",), alone)
    if lost := [name for name in champion if len(challenger.get(name, {}).keys() & champion[name].keys()) < OVERLAP * len(champion[name])]:
        return Decision("reject", tuple(f"{name}: not answered by both" for name in lost), alone)
    return _gate(champion, challenger, policy)


def _gate(champion: Scores, challenger: Scores, policy: Policy) -> Decision:
    decision = judge(champion, challenger, gate_policy(champion, policy))
    silent = [f"{guard.name}: no rows on either side, not judged" for guard in policy.guards if guard.name not in champion]
    return Decision(decision.verdict, decision.reasons, decision.metrics, (*decision.notes, *silent))


def gate_policy(champion: Scores, policy: Policy) -> GatePolicy:
    """The gate's settings for the metrics of which the champion has scores."""
    margins = {guard.name: guard.margin for guard in policy.guards if guard.name in champion}
    return GatePolicy(policy.name, margins, alpha=policy.alpha)


def score_rows(rows: Sequence[Row], policy: Policy) -> list[dict[str, Any]]:
    """The answers that the policy asks about as rows {suite, mode, id, metric, score, ...}."""
    asked = dict.fromkeys([(policy.primary, policy.mode, "em"), *((g.suite, g.mode, g.metric) for g in policy.guards)])
    return [
        {**row, "metric": metric, "score": float(row[metric])}
        for suite, mode, metric in asked
        for row in rows
        if (row["suite"], row["mode"]) == (suite, mode) and row.get(metric) is not None
    ]
