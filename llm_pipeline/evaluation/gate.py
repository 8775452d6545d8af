"""May the challenger replace the champion? Superiority where it counts, no loss elsewhere, both by paired intervals.

"Higher mean wins" promotes equal models half of the time; a lower 90% bound above zero does so about once in twenty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llm_pipeline.errors import ConfigError
from llm_pipeline.evaluation.compare import LEVEL, Interval, mean_interval, paired_difference

Row = Mapping[str, Any]
METRICS = ("em", "rouge_l", "refused", "grounded", "finished")


@dataclass(frozen=True)
class Guard:
    """A metric that must not fall by more than `margin`; its interval's lower bound must stay above `-margin`."""

    suite: str
    mode: str
    metric: str = "em"
    margin: float = 0.05

    def __post_init__(self) -> None:
        if self.metric not in METRICS or not 0 <= self.margin <= 1:
            raise ConfigError(f"guard {self}: expected a metric of {', '.join(METRICS)} and a margin from 0 to 1")


@dataclass(frozen=True)
class Policy:
    """Where a challenger must win, what it must not lose, and how good the first model must be."""

    primary: str = "facts"
    mode: str = "closed"
    guards: tuple[Guard, ...] = ()
    minimum_em: float = 0.5
    """Asked of every challenger on the primary suite; without a champion it is all that is asked."""
    minimum_rows: int = 50
    level: float = LEVEL


@dataclass(frozen=True)
class Decision:
    verdict: Literal["promote", "reject", "insufficient"]
    reasons: tuple[str, ...]
    metrics: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "reasons": list(self.reasons), "metrics": self.metrics}


def default_policy(primary: str, suites: Mapping[str, str], **options: Any) -> Policy:
    """Guards for the usual suites, judged as customers are answered, over passages: reading and refusing must not get worse.

    `suites` maps a suite to its kind. With 140 paired answers, of which one in five changed, the interval is about 0.06 wide on each side.
    """
    guards = [Guard(name, "retrieval", "refused", 0.1) for name, kind in suites.items() if kind == "refusal"]
    return Policy(primary, guards=(Guard(primary, "retrieval", "em", 0.1), *guards), **options)


def decide(champion_rows: Sequence[Row], challenger_rows: Sequence[Row], policy: Policy) -> Decision:
    """The verdict on rows {suite, mode, id, em, refused, ...}; an empty `champion_rows` means that nothing is deployed yet."""
    mine = _values(challenger_rows, policy.primary, policy.mode, "em")
    if len(mine) < policy.minimum_rows:
        return Decision("insufficient", (f"{policy.primary} ({policy.mode}): {len(mine)} answers, at least {policy.minimum_rows} needed",))
    own = mean_interval(list(mine.values()), level=policy.level)
    metrics: dict[str, Any] = {"primary": {"suite": policy.primary, "mode": policy.mode, "challenger": asdict(own)}}
    if own.mean < policy.minimum_em:
        return Decision("reject", (f"{policy.primary} ({policy.mode}): exact match {own}, at least {policy.minimum_em} needed",), metrics)
    if not champion_rows:
        return Decision("promote", (f"no champion, and exact match {own} reaches {policy.minimum_em}",), metrics)
    theirs = _values(champion_rows, policy.primary, policy.mode, "em")
    gain = _paired(theirs, mine, policy)
    if gain.n < policy.minimum_rows:
        return Decision("insufficient", (f"{policy.primary}: {gain.n} questions answered by both, {policy.minimum_rows} needed",), metrics)
    metrics["primary"] |= {"champion": asdict(mean_interval(list(theirs.values()), level=policy.level)), "gain": asdict(gain)}
    return _judge(gain, champion_rows, challenger_rows, policy, metrics)


def _judge(gain: Interval, champion: Sequence[Row], challenger: Sequence[Row], policy: Policy, metrics: dict[str, Any]) -> Decision:
    passed: list[str] = []
    failed: list[str] = []
    short: list[str] = []
    wins = f"{policy.primary} ({policy.mode}): gain {gain}"
    (passed if gain.low > 0 else failed).append(wins + (" is above 0" if gain.low > 0 else " is not surely above 0"))
    metrics["guards"] = []
    for guard in policy.guards:
        before = _values(champion, guard.suite, guard.mode, guard.metric)
        after = _values(challenger, guard.suite, guard.mode, guard.metric)
        change = _paired(before, after, policy)
        what = f"{guard.suite} ({guard.mode}) {guard.metric}: change {change}, margin {guard.margin}"
        metrics["guards"].append(asdict(guard) | {"change": asdict(change)})
        if not before and not after:
            short.append(what + ": no rows on either side, not judged")
        elif change.n < min(policy.minimum_rows, len(before)) or change.n == 0:
            failed.append(what + ": not answered by both")
        else:
            (passed if change.low >= -guard.margin else failed).append(what)
    verdict: Literal["promote", "reject"] = "reject" if failed else "promote"
    return Decision(verdict, tuple(failed or passed) + tuple(short), metrics)


def _values(rows: Sequence[Row], suite: str, mode: str, metric: str) -> dict[str, float]:
    chosen = [row for row in rows if row["suite"] == suite and row["mode"] == mode and row.get(metric) is not None]
    return dict(sorted((str(row["id"]), float(row[metric])) for row in chosen))


def _paired(before: Mapping[str, float], after: Mapping[str, float], policy: Policy) -> Interval:
    both = sorted(before.keys() & after.keys())
    return paired_difference([before[i] for i in both], [after[i] for i in both], level=policy.level)
