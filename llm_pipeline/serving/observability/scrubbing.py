"""Personal data out of rows of the interaction log, on the thread that writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm_pipeline.curation.pii import load_policy, scrub_texts
from llm_pipeline.curation.pii.policy import PiiPolicy

FIELDS = ("messages", "answer", "raw", "choices", "comment", "correction", "user")
_FIXED = frozenset({"role", "type", "finish_reason"})
"""Keys of a message whose values are words of the protocol."""


class Scrubber:
    """Rows with every text of `FIELDS` scrubbed, also inside lists of parts and tool calls; `scrubbed` says so."""

    def __init__(self, policy: PiiPolicy | None = None) -> None:
        self._policy = policy or load_policy()
        scrub_texts(["Mary Smith, mary@example.org"], self._policy)  # name lists load now, not with the first answer

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        kept = [{name: row[name] for name in FIELDS if row.get(name)} for row in rows]
        texts = [text for part in kept for text in _texts(part)]
        clean = iter(scrub_texts(texts, self._policy)[0])
        return [{**row, **_with(part, clean), "scrubbed": True} for row, part in zip(rows, kept, strict=True)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _FIXED:
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _with(value: Any, clean: Iterator[str]) -> Any:
    """The value with its texts replaced, in the order of `_texts`."""
    if isinstance(value, str):
        return next(clean)
    if isinstance(value, Mapping):
        return {name: inner if name in _FIXED else _with(inner, clean) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with(inner, clean) for inner in value]
    return value
