"""A model as judge: one answer on a scale, or two answers in both orders; what it said, what it could not say, and what that cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.judge_cases import Case
from llm_pipeline.evaluation.judge_client import Endpoint, Sleep, ask_all
from llm_pipeline.evaluation.judge_prompt import Asked, judge_messages
from llm_pipeline.evaluation.judge_replies import Reply
from llm_pipeline.evaluation.judge_rubric import Parsed, Rubric, Verdict, parse_verdict
from llm_pipeline.store import content_hash

SWAPPED: dict[Verdict, Verdict] = {"A": "B", "B": "A", "tie": "tie"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Judged:
    """The verdict on one case; without one, `problem` says why."""

    verdict: Verdict | None
    reason: str
    problem: str
    flags: tuple[str, ...]
    seen: tuple[Verdict | None, ...] = ()
    """Of a pair: what was said in the given and in the swapped order, A being what stood first in each."""

    @property
    def consistent(self) -> bool:
        """Whether both orders gave the same verdict."""
        return len(self.seen) == 2 and None not in self.seen and self.seen[0] == SWAPPED[self.seen[1] or ""]


@dataclass(frozen=True)
class Judge:
    """A rubric in the hands of a model; the `id` names both, so that a calibration holds for this judge and no other."""

    rubric: Rubric
    endpoint: Endpoint
    cache: Path | None = None
    sleep: Sleep = asyncio.sleep

    @property
    def id(self) -> str:
        return content_hash(self.rubric.id, self.endpoint.model, dict(self.endpoint.sampling))

    def score(self, cases: Sequence[Case], progress: Progress | None = None) -> tuple[list[Judged], dict[str, Any]]:
        """A verdict per case and what they cost, by a pointwise rubric."""
        self._expect("pointwise")
        asked = [judge_messages(self.rubric, c.question, [c.answer], self._reference(c)) for c in cases]
        replies, usage = ask_all(self.endpoint, [a.messages for a in asked], self.cache, progress, self.sleep)
        judged = [_judged(self._parsed(reply), a) for a, reply in zip(asked, replies, strict=True)]
        return judged, usage.summary(self.endpoint.cost)

    def prefer(self, pairs: Sequence[tuple[Case, Case]], progress: Progress | None = None) -> tuple[list[Judged], dict[str, Any]]:
        """A verdict per pair (A is the first of each) and what they cost, by a pairwise rubric.

        Both orders are asked; where they disagree the verdict is a tie, and the pair counts as inconsistent.
        """
        self._expect("pairwise")
        orders = [order for one, other in pairs for order in ((one, other), (other, one))]
        references = [self._reference(one) for one, _ in pairs for _ in range(2)]
        asked = [
            judge_messages(self.rubric, a.question, [a.answer, b.answer], reference)
            for (a, b), reference in zip(orders, references, strict=True)
        ]
        replies, usage = ask_all(self.endpoint, [a.messages for a in asked], self.cache, progress, self.sleep)
        parsed = [self._parsed(reply) for reply in replies]
        judged = [_of_both_orders(parsed[i], parsed[i + 1], asked[i]) for i in range(0, len(parsed), 2)]
        return judged, usage.summary(self.endpoint.cost)

    def _expect(self, kind: str) -> None:
        if self.rubric.kind != kind:
            raise InputError(f"rubric {self.rubric.name} is {self.rubric.kind}, expected a {kind} one")

    def _reference(self, case: Case) -> str | None:
        if self.rubric.reference == "required" and not case.reference:
            raise InputError(f"rubric {self.rubric.name} compares with a reference, but the case {case.id!r} has none")
        return case.reference

    def _parsed(self, reply: Reply) -> Parsed:
        if reply.error:
            return Parsed(None, problem=f"request failed: {reply.error}")
        return parse_verdict(self.rubric, reply.text, reply.finish_reason)


def _judged(parsed: Parsed, asked: Asked) -> Judged:
    return Judged(parsed.verdict, parsed.reason, parsed.problem, asked.flags)


def _of_both_orders(given: Parsed, swapped: Parsed, asked: Asked) -> Judged:
    seen = (given.verdict, swapped.verdict)
    if given.verdict is None or swapped.verdict is None:
        return Judged(None, given.reason, given.problem or swapped.problem, asked.flags, seen)
    same = given.verdict == SWAPPED[swapped.verdict]
    reason = given.reason if same else f"the two orders disagree; first: {given.reason} second: {swapped.reason}"
    return Judged(given.verdict if same else "tie", reason, "", asked.flags, seen)


def positions(judged: Sequence[Judged]) -> dict[str, float | int | None]:
    """How far the order decided: share of consistent pairs, and of all choices between two the share for what stood first (fair: half)."""
    whole = [j for j in judged if None not in j.seen]
    chosen = [verdict for j in whole for verdict in j.seen if verdict != "tie"]
    return {
        "pairs": len(whole),
        "consistent": round(sum(j.consistent for j in whole) / len(whole), 4) if whole else None,
        "first_share": round(chosen.count("A") / len(chosen), 4) if chosen else None,
    }


def scored_rows(judge: Judge, cases: Sequence[Case], judged: Sequence[Judged], refusal: str = "") -> list[dict[str, Any]]:
    """Rows `id, metric, score` as `llm-pipeline gate` reads them; score is 0 to 1.

    With a `refusal` (why this judge may not gate) `score` is null, which the gate refuses, and the figure stands under `judged` only.
    """
    rows = []
    for case, verdict in zip(cases, judged, strict=True):
        value = _share(judge.rubric, verdict.verdict)
        rows.append(case.origin() | _texts(case) | _row(judge, verdict, value, refusal))
    return rows


def preference_rows(
    judge: Judge, pairs: Sequence[tuple[Case, Case]], judged: Sequence[Judged], refusal: str = ""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same for the two sides of each pair: 1 for the preferred answer, 0 for the other, a half each for a tie."""
    worth: dict[Verdict | None, float | None] = {"A": 1.0, "B": 0.0, "tie": 0.5, None: None}
    first, second = [], []
    for (one, other), verdict in zip(pairs, judged, strict=True):
        value = worth[verdict.verdict]
        further = {"orders": list(verdict.seen), "consistent": verdict.consistent}
        first.append(one.origin() | _texts(one) | _row(judge, verdict, value, refusal) | further)
        second.append(other.origin() | _texts(other) | _row(judge, verdict, None if value is None else 1 - value, refusal) | further)
    return first, second


def _row(judge: Judge, verdict: Judged, value: float | None, refusal: str) -> dict[str, Any]:
    return {
        "metric": judge.rubric.metric,
        "score": None if refusal else value,
        "judged": value,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "problem": verdict.problem,
        "flags": list(verdict.flags),
        "judge": judge.id,
        "gate_eligible": not refusal,
        **({"refusal": refusal} if refusal else {}),
    }


def _texts(case: Case) -> dict[str, Any]:
    return {"question": case.question, "answer": case.answer, "reference": case.reference}


def _share(rubric: Rubric, verdict: Verdict | None) -> float | None:
    return rubric.scale.share(verdict) if isinstance(verdict, int) else None
