"""Texts without personal data: every span replaced as the policy says, until a new scan finds nothing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.curation.pii.pseudonyms import Replacer
from llm_pipeline.curation.pii.scan import Span, scan_texts, without_overlaps

__all__ = ["scrub_messages", "scrub_texts"]
_ROUNDS = 100
"""More than any text needs: every round takes characters of the input out."""


def scrub_texts(texts: Sequence[str], policy: PiiPolicy, documents: Sequence[str] = ()) -> tuple[list[str], list[Span]]:
    """The scrubbed texts and the spans in terms of the input texts; `documents` names the scope of each text's pseudonyms.

    Taking one value out can show another (digits that were the middle of a longer number), so what changed is looked at again.
    """
    put, scrubbed = Replacer(policy), list(texts)
    by_text: dict[int, list[Span]] = {}
    edits: dict[int, _Edit] = {}
    for span in scan_texts(texts, policy):
        by_text.setdefault(span.text, []).append(span)
    changed = sorted(by_text)
    for _ in range(_ROUNDS):
        for i in changed:
            edits[i] = _Edit(texts[i], by_text[i], put, documents[i] if documents else "")
            scrubbed[i] = edits[i].text
        new: dict[int, list[Span]] = {}
        for span in scan_texts([scrubbed[i] for i in changed], policy):
            i = changed[span.text]
            new.setdefault(i, []).append(edits[i].origin(span, i))
        for i, spans in new.items():
            by_text[i] = _joined(by_text[i], spans)
        changed = sorted(new)
        if not changed:
            break
    return scrubbed, [span for i in sorted(by_text) for span in by_text[i]]


def _joined(known: Sequence[Span], new: Sequence[Span]) -> list[Span]:
    """Known spans and those of a second look; what a new one touches it takes in."""
    found = without_overlaps(new)
    starts, ends = [span.start for span in found], [span.end for span in found]
    return sorted([*found, *(old for old in known if bisect_right(ends, old.start) >= bisect_left(starts, old.end))])


class _Edit:
    """A text with its spans replaced, and the way back from places of the result."""

    def __init__(self, text: str, spans: Sequence[Span], put: Replacer, document: str) -> None:
        parts, at, length = [], 0, 0
        self.spans, self.starts, self.ends = spans, [], []
        for span in spans:
            before, value = text[at : span.start], put(text[span.start : span.end], span.entity, document)
            parts += [before, value]
            self.starts.append(length + len(before))
            length += len(before) + len(value)
            self.ends.append(length)
            at = span.end
        self.text = "".join([*parts, text[at:]])

    def origin(self, span: Span, text: int) -> Span:
        """The span in the input's offsets; an end inside a replacement becomes that of the replaced span."""
        i, j = bisect_right(self.ends, span.start), bisect_left(self.starts, span.end) - 1
        inside, reaching = i < len(self.spans) and self.starts[i] < span.start, j >= 0 and self.ends[j] > span.end
        start = self.spans[i].start if inside else span.start - self._shift(i - 1)
        end = self.spans[j].end if reaching else span.end - self._shift(j)
        return replace(span, text=text, start=start, end=end)

    def _shift(self, i: int) -> int:
        return self.ends[i] - self.spans[i].end if i >= 0 else 0


def scrub_messages(
    text: str, spans: Sequence[Span], messages: Sequence[Mapping[str, str]], policy: PiiPolicy, document: str = ""
) -> tuple[list[dict[str, str]], bool]:
    """The messages of a conversation whose `text` has these spans (the text holds the messages in order).

    Returns also whether every message was found in the text; one that was not has to be scanned alone.
    """
    scrubbed, at, whole, put = [], 0, True, Replacer(policy)
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
        scrubbed.append({**message, "content": _Edit(content, mine, put, document).text})
    return scrubbed, whole
