"""Texts without personal data: every span replaced as the policy says, until a new scan finds nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.curation.pii.scan import Span, scan_texts, without_overlaps

_ROUNDS = 6
PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]+\]")


def scrub_texts(texts: Sequence[str], policy: PiiPolicy) -> tuple[list[str], list[Span]]:
    """The scrubbed texts and the spans in terms of the input texts.

    Taking one value out can show another (digits that were the middle of a longer number), so what changed is looked at again.
    """
    spans = scan_texts(texts, policy)
    by_text: dict[int, list[Span]] = {}
    for span in spans:
        by_text.setdefault(span.text, []).append(span)
    scrubbed = list(texts)
    open_texts = sorted(by_text)
    for _ in range(_ROUNDS):
        for i in open_texts:
            scrubbed[i] = _replace(texts[i], by_text[i], policy)
        again = scan_texts([scrubbed[i] for i in open_texts], policy)
        if not again:
            break
        open_texts = _add(again, open_texts, by_text, policy, texts)
    return scrubbed, [span for i in sorted(by_text) for span in by_text[i]]


def _add(
    again: Sequence[Span], open_texts: Sequence[int], by_text: dict[int, list[Span]], policy: PiiPolicy, texts: Sequence[str]
) -> list[int]:
    """Spans of a second look, taken back to the input's offsets and joined with the known ones; returns the texts that changed."""
    changed: dict[int, list[Span]] = {}
    for span in again:
        i = open_texts[span.text]
        start, end = _origin(span.start, by_text[i], policy, texts[i], False), _origin(span.end, by_text[i], policy, texts[i], True)
        changed.setdefault(i, []).append(replace(span, text=i, start=start, end=end))
    for i, new in changed.items():
        outside = [old for old in by_text[i] if all(old.end <= span.start or old.start >= span.end for span in new)]
        by_text[i] = sorted(outside + without_overlaps(new))
    return sorted(changed)


def _origin(position: int, spans: Sequence[Span], policy: PiiPolicy, text: str, is_end: bool) -> int:
    """The input's offset of an offset in the scrubbed text; inside a replacement, the replaced span's start or end."""
    shift = 0
    for span in spans:
        length = len(_replacement(text[span.start : span.end], span.entity, policy))
        begin = span.start + shift
        if position <= begin if is_end else position < begin:
            break
        if position < begin + length or (is_end and position == begin + length):
            return span.end if is_end else span.start
        shift += length - (span.end - span.start)
    return position - shift


def _replace(text: str, spans: Sequence[Span], policy: PiiPolicy) -> str:
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], _replacement(text[span.start : span.end], span.entity, policy)]
        at = span.end
    return "".join([*parts, text[at:]])


def _replacement(value: str, entity: str, policy: PiiPolicy) -> str:
    match policy.mode(entity):
        case "mask":
            return re.sub(r"[^\W_]", "*", value)
        case "drop":
            return ""
        case "keep":
            return value
        case _:
            return f"[{entity}]"


def scrub_messages(
    text: str, spans: Sequence[Span], messages: Sequence[Mapping[str, str]], policy: PiiPolicy
) -> tuple[list[dict[str, str]], bool]:
    """The messages of a conversation whose `text` has these spans (the text holds the messages in order).

    Returns also whether every message was found in the text; one that was not has to be scanned alone.
    """
    scrubbed, at, whole = [], 0, True
    for message in messages:
        content = message["content"]
        begin = text.find(content, at)
        if begin < 0:
            whole = False
            scrubbed.append(dict(message))
            continue
        end = at = begin + len(content)
        mine = [
            replace(span, start=max(span.start, begin) - begin, end=min(span.end, end) - begin)
            for span in spans
            if span.start < end and span.end > begin
        ]
        scrubbed.append({**message, "content": _replace(content, mine, policy)})
    return scrubbed, whole
