"""Spans of personal data in texts: the prefilter chooses the texts for each rule, the rule finds, overlaps are resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.curation.pii.rules import Rule, rules


@dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `end` of text number `text` are of type `entity`; the value itself is never kept."""

    text: int
    start: int
    end: int
    entity: str
    score: float
    recogniser: str


_FEW = 40
"""Up to so many texts are looked at by every rule at once, which costs less than compiling the prefilters."""


@lru_cache(maxsize=8)
def _rules(policy_id: str, policy: _Held) -> list[Rule]:
    return rules(policy.policy)


@dataclass(frozen=True)
class _Held:
    """A policy (it holds a mapping, so it has no hash) as a key of the rule cache."""

    policy: PiiPolicy

    def __hash__(self) -> int:
        return hash(self.policy.id)


def policy_rules(policy: PiiPolicy) -> list[Rule]:
    return _rules(policy.id, _Held(policy))


def scan_texts(texts: Sequence[str], policy: PiiPolicy) -> list[Span]:
    """All spans, in the order of texts and positions, without overlaps."""
    found: dict[int, list[Span]] = {}
    series = pl.Series("text", list(texts), dtype=pl.String)
    allowed = frozenset(policy.allow)
    for rule in policy_rules(policy):
        for i in prefilter(rule, series) if len(texts) > _FEW else range(len(texts)):
            text = texts[i]
            for start, end, score in rule.find(text):
                if score >= policy.minimum_score and text[start:end] not in allowed:
                    found.setdefault(i, []).append(Span(i, start, end, rule.entity, round(score, 3), rule.name))
    return [span for i in sorted(found) for span in without_overlaps(found[i])]


def prefilter(rule: Rule, series: pl.Series) -> list[int]:
    """Positions of the texts that the rule must look at: a superset of those in which it finds anything."""
    mask = series.str.contains(rule.prefilter[0])
    for pattern in rule.prefilter[1:]:
        mask &= series.str.contains(pattern)
    return mask.arg_true().to_list()


def without_overlaps(spans: Sequence[Span]) -> list[Span]:
    """The spans that stay when surer ones win, then longer ones, then earlier ones."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda s: (-s.score, s.start - s.end, s.start, s.entity)):
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept)
