"""Spans of personal data in texts: anchors choose the places, finders judge them, overlaps are resolved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_pipeline.curation.pii.finders import finders
from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.curation.pii.windows import Found, windows


@dataclass(frozen=True, order=True)
class Span:
    """Characters `start` to `end` of text number `text` are of type `entity`; the value itself is never kept."""

    text: int
    start: int
    end: int
    entity: str
    score: float
    recogniser: str


def scan_texts(texts: Sequence[str], policy: PiiPolicy) -> list[Span]:
    """All spans, in the order of texts and positions, without overlaps."""
    found: dict[int, set[Span]] = defaultdict(set)
    allowed = frozenset(policy.allow)
    for i, (start, end, score, entity, recogniser) in _found(texts, policy):
        if score >= policy.minimum_score and policy.mode(entity) != "keep" and texts[i][start:end] not in allowed:
            found[i].add(Span(i, start, end, entity, round(score, 3), recogniser))
    return [span for i in sorted(found) for span in without_overlaps(found[i])]


def _found(texts: Sequence[str], policy: PiiPolicy) -> Iterator[tuple[int, Found]]:
    """What every finder sees in its windows; a match that a window's end may have cut short is left to the next window."""
    if policy.ner:
        from llm_pipeline.curation.pii.ner import model_hits

        yield from model_hits(policy.ner, texts)
    plain = [_plain(text) for text in texts]
    for finder, i, low, high in windows(finders(policy), plain):
        yield from ((i, hit) for hit in finder.find(plain[i], low, high) if hit[1] < high or high == len(plain[i]))


_TYPOGRAPHIC = {
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
}
"""Spaces and hyphens of typesetting, as people paste them into numbers, and the plain ones."""


def _plain(text: str) -> str:
    """The text with plain spaces and hyphens, character by character, so that places stay what they were."""
    if not text.isascii():
        for typographic, plain in _TYPOGRAPHIC.items():
            if typographic in text:
                text = text.replace(typographic, plain)
    return text


def without_overlaps(spans: Sequence[Span] | set[Span]) -> list[Span]:
    """The spans that stay when surer ones win, then longer ones, then earlier ones."""
    kept: list[Span] = []
    group: list[Span] = []
    reach = 0
    for span in sorted(spans):
        if group and span.start >= reach:
            kept += _best(group)
            group = []
        reach = max(reach if group else 0, span.end)
        group.append(span)
    return kept + _best(group)


def _best(group: Sequence[Span]) -> list[Span]:
    """Of spans that touch one another."""
    if len(group) < 2:
        return list(group)
    kept: list[Span] = []
    for span in sorted(group, key=lambda s: (-s.score, s.start - s.end, s.start, s.entity)):
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept)
