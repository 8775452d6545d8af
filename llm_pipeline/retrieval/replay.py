"""Logged questions asked of two generations: what a new index changes for those who ask, before it answers them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from llm_pipeline.errors import MissingError
from llm_pipeline.retrieval.search import Passage, Searcher
from llm_pipeline.store import Home

QUESTIONS = 500


@dataclass(frozen=True)
class Change:
    """What became of one question's results."""

    question: str
    overlap: float
    """Share of the first k passages of both lists together that stand in both (by text)."""
    first: int | None
    """At which rank the passage that used to be first is now; None: not among the first k."""


@dataclass(frozen=True)
class Replay:
    """Two generations compared; milliseconds are of one search with its question already embedded."""

    old: str
    new: str
    questions: int
    k: int
    overlap: float
    same_first: float
    """Share of the questions whose first passage stays first."""
    lost_first: float
    """Share of the questions whose first passage is no longer among the first k."""
    mean_shift: float
    """By how many ranks the passages found by both moved, on average."""
    old_ms: dict[str, float]
    new_ms: dict[str, float]
    changed: tuple[Change, ...]
    """The questions that changed most."""


def logged_questions(home: Home, most: int = QUESTIONS) -> list[str]:
    """The last different questions of the interaction log, oldest first."""
    if not home.lake.days("interactions"):
        raise MissingError(
            f"no day of table 'interactions' in {home.root}: materialise the asset `interactions`, or give a file of questions"
        )
    asked = home.lake.read("interactions", columns=["question"])["question"].to_pylist()
    return list(dict.fromkeys(str(question) for question in reversed(asked) if question))[:most][::-1]


def compare(
    old: Searcher, new: Searcher, questions: Sequence[str], k: int = 10, *, labels: Collection[str] = frozenset(), shown: int = 10
) -> Replay:
    """Ask both the same; passages are the same when their texts are, since a document may have a new name."""
    if not questions:
        raise MissingError("no questions to ask of the two generations")
    before, old_ms = _ask(old, questions, k, labels)
    after, new_ms = _ask(new, questions, k, labels)
    changes, shifts = [], []
    for question, was, now in zip(questions, before, after, strict=True):
        ranks, old_ranks = ({passage.text: rank for rank, passage in enumerate(found, 1)} for found in (now, was))
        both = [text for text in old_ranks if text in ranks]
        shifts += [abs(ranks[text] - old_ranks[text]) for text in both]
        overlap = len(both) / max(len(set(ranks) | set(old_ranks)), 1) if was or now else 1.0
        changes.append(Change(question, round(overlap, 4), ranks.get(was[0].text) if was else (None if now else 1)))
    firsts = [change.first for change in changes]
    worst = sorted(changes, key=lambda change: (change.first == 1, change.overlap))
    return Replay(
        old=old.path.name,
        new=new.path.name,
        questions=len(questions),
        k=k,
        overlap=round(float(np.mean([change.overlap for change in changes])), 4),
        same_first=round(float(np.mean([first == 1 for first in firsts])), 4),
        lost_first=round(float(np.mean([first is None for first in firsts])), 4),
        mean_shift=round(float(np.mean(shifts)), 4) if shifts else 0.0,
        old_ms=old_ms,
        new_ms=new_ms,
        changed=tuple(change for change in worst[:shown] if change.first != 1 or change.overlap < 1),
    )


def _ask(searcher: Searcher, questions: Sequence[str], k: int, labels: Collection[str]) -> tuple[list[list[Passage]], dict[str, float]]:
    searcher.embedder.warm(questions)
    found, seconds = [], []
    for question in questions:
        started = time.perf_counter()
        found.append(searcher.search(question, k, labels=labels))
        seconds.append(time.perf_counter() - started)
    return found, percentiles(seconds)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds that half, 95 and 99 of 100 stay below."""
    return {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 2) for p in (50, 95, 99)} if seconds else {}
