"""Why an answer deserves a look: metrics contradict each other, two models differ, a judge was unsure, a figure is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.compare import score_interval
from llm_pipeline.evaluation.judge_cases import Case
from llm_pipeline.evaluation.slices import by_slice
from llm_pipeline.store import content_hash

Kind = Literal["disagreement", "models_differ", "judge_unsure", "wide_interval", "audit"]
Key = tuple[str, str, str]
ALIKE = 0.2
"""Metrics whose scores correlate at least so much are taken to measure the same thing, so that a contradiction means something."""


@dataclass(frozen=True)
class QueueSettings:
    """How many items, and what counts as worth a look."""

    n: int = 50
    audit: float = 0.2
    """Share of the items that is the random sample, more where there is too little doubt to fill the queue; 0: none."""
    spread: float = 0.5
    """Difference of two scores (0 to 1) from which they contradict each other, or two models differ."""
    width: float = 0.2
    """Width of the interval of a slice's mean from which its answers are candidates."""
    metrics: tuple[str, ...] = ()
    """Metrics to compare; empty: those from 0 to 1 whose scores go together over the rows."""
    by: tuple[str, ...] = ()
    """Slices that make up the strata of the audit, besides the suite."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or not (0 <= self.audit <= 1 and 0 < self.spread <= 1 and 0 < self.width <= 1):
            raise ConfigError(f"review queue: received {self}, expected n >= 1, audit from 0 to 1, spread and width above 0 up to 1")


@dataclass(frozen=True)
class Reason:
    kind: Kind
    detail: str
    strength: float = 0.0


def case_reasons(cases: Sequence[Case], settings: QueueSettings) -> dict[Key, list[Reason]]:
    """Why single answers deserve a look, by the key of the case."""
    found: dict[Key, list[Reason]] = defaultdict(list)
    together = comparable(cases, settings.metrics)
    for case in cases:
        gaps = [(abs(case.scores[a] - case.scores[b]), a, b) for a, b in together if a in case.scores and b in case.scores]
        if gaps and max(gaps)[0] >= settings.spread:
            gap, a, b = max(gaps)
            found[case.key].append(Reason("disagreement", f"{a} {case.scores[a]:g}, {b} {case.scores[b]:g}", gap))
        found[case.key] += [Reason("judge_unsure", doubt, 1.0) for doubt in case.doubts]
    for detail, width, members in _wide(cases, settings):
        for case in members:
            if not any(reason.kind == "wide_interval" and reason.strength >= width for reason in found[case.key]):
                found[case.key] = [r for r in found[case.key] if r.kind != "wide_interval"] + [Reason("wide_interval", detail, width)]
    return {key: reasons for key, reasons in found.items() if reasons}


def pair_reasons(pairs: Sequence[tuple[Case, Case]], settings: QueueSettings) -> dict[Key, list[Reason]]:
    """Why pairs deserve a look: metrics name different winners, or the models differ much."""
    found: dict[Key, list[Reason]] = {}
    names = settings.metrics or tuple(_bounded([case for pair in pairs for case in pair]))
    together = comparable([case for pair in pairs for case in pair], settings.metrics)
    for one, other in pairs:
        if one.answer == other.answer:
            continue
        change = {name: other.scores[name] - one.scores[name] for name in names if name in one.scores and name in other.scores}
        reasons = [
            Reason("disagreement", f"{a} {change[a]:+g}, {b} {change[b]:+g}", abs(change[a] - change[b]) / 2)
            for a, b in together
            if a in change and b in change and change[a] * change[b] < 0 and abs(change[a] - change[b]) >= settings.spread
        ]
        far = [(abs(value), name) for name, value in change.items() if abs(value) >= settings.spread]
        if far:
            reasons.append(Reason("models_differ", f"{max(far)[1]} {change[max(far)[1]]:+g}", max(far)[0]))
        reasons += [Reason("judge_unsure", doubt, 1.0) for doubt in dict.fromkeys([*one.doubts, *other.doubts])]
        if reasons:
            found[one.key] = reasons
    return found


def comparable(cases: Sequence[Case], named: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Pairs of metrics that should agree: all of the named ones, else those from 0 to 1 whose scores go together."""
    names = list(named) or _bounded(cases)
    if unknown := [name for name in named if not any(name in case.scores for case in cases)]:
        raise InputError(f"metric {unknown[0]!r} is not in the rows; they have {', '.join(_metrics(cases)) or 'none'}")
    pairs = []
    for a, b in combinations(names, 2):
        shared = [(case.scores[a], case.scores[b]) for case in cases if a in case.scores and b in case.scores]
        varied = shared and all(len(set(side)) > 1 for side in zip(*shared, strict=True))
        if named or (varied and np.corrcoef(np.array(shared).T)[0, 1] >= ALIKE):
            pairs.append((a, b))
    return pairs


def _metrics(cases: Sequence[Case]) -> list[str]:
    return sorted({name for case in cases for name in case.scores})


def _bounded(cases: Sequence[Case]) -> list[str]:
    return [name for name in _metrics(cases) if all(0 <= case.scores.get(name, 0) <= 1 for case in cases)]


def _wide(cases: Sequence[Case], settings: QueueSettings) -> list[tuple[str, float, list[Case]]]:
    """Slices whose mean is unsure: what and how wide, and the cases in it."""
    found = []
    for metric in settings.metrics or _bounded(cases):
        rows = [case.origin() | {"question": case.question, "case": case} for case in cases if metric in case.scores]
        for (name, value), members in by_slice(rows).items():
            interval = score_interval([row["case"].scores[metric] for row in members])
            if (width := interval.high - interval.low) >= settings.width:
                detail = f"{name}={value}: {metric} {interval} on {len(members)} answers"
                found.append((detail, round(width, 4), [row["case"] for row in members]))
    return found


def by_turns(found: Mapping[Key, Sequence[Reason]], seed: int) -> list[Key]:
    """The keys, kind after kind in turn, the strongest reason of each first."""
    piles: dict[str, list[tuple[float, str, Key]]] = defaultdict(list)
    for key, reasons in found.items():
        for reason in reasons:
            piles[reason.kind].append((-reason.strength, content_hash(seed, *key), key))
    queues = [sorted(piles[kind]) for kind in ("disagreement", "models_differ", "judge_unsure", "wide_interval") if piles[kind]]
    turns = [entry[2] for i in range(max(map(len, queues), default=0)) for queue in queues for entry in queue[i : i + 1]]
    return list(dict.fromkeys(turns))
