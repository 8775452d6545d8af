"""The gateway's interaction segments into one daily table, so that every later question about traffic is a table scan.

A segment is a JSON-lines file of `records.Interaction`. Its last line may be torn (the gateway was killed while writing) and
a retried write may repeat an interaction, so lines are checked, repeated ids are dropped, and both are counted by rule.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.monitoring.feedback import Opinion
from llm_pipeline.records import Interaction

_COLUMNS: list[tuple[str, Any]] = [
    ("id", pa.string()),
    ("received_at", pa.string()),
    ("release", pa.string()),
    ("key", pa.string()),
    ("user", pa.string()),
    ("question", pa.string()),
    ("answer", pa.string()),
    ("finish_reason", pa.string()),
    ("messages", pa.string()),
    ("passages", pa.string()),
    ("usage", pa.string()),
    ("seconds", pa.string()),
    ("guardrails", pa.string()),
    ("key_id", pa.int64()),
    ("variant", pa.string()),
    ("prompt", pa.string()),
    ("parameters", pa.string()),
    ("guardrail_events", pa.string()),
    ("cache", pa.string()),
    ("cost", pa.float64()),
    ("upstreams", pa.string()),
    ("trace_id", pa.string()),
    ("status", pa.int64()),
    ("error", pa.string()),
    ("scrubbed", pa.bool_()),
    ("rating", pa.float64()),
    ("comment", pa.string()),
    ("correction", pa.string()),
]
"""The last three are what users said (`feedback.py`); no rating is null."""
SCHEMA = pa.schema(_COLUMNS)
_JSON = ("messages", "passages", "usage", "seconds", "guardrails", "prompt", "parameters", "guardrail_events", "upstreams")
_REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "received_at": str,
    "release": str,
    "key": str,
    "messages": list,
    "answer": str,
    "finish_reason": str,
    "passages": list,
    "usage": dict,
    "seconds": dict,
    "guardrails": list,
}
_OPTIONAL: Mapping[str, tuple[type, ...]] = {
    "key_id": (int, type(None)),
    "variant": (str,),
    "prompt": (dict,),
    "parameters": (dict,),
    "guardrail_events": (list,),
    "cache": (str,),
    "cost": (int, float),
    "upstreams": (list,),
    "trace_id": (str,),
    "span_id": (str,),
    "parent_span_id": (str,),
    "status": (int,),
    "error": (str,),
    "scrubbed": (bool,),
}
"""Fields that older gateways did not write; they get their defaults."""


@dataclass(frozen=True)
class Segments:
    """What the segment files hold: good interactions in time order, and what was set aside, by rule."""

    interactions: Sequence[Interaction]
    quarantined: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """One entry per unusable line: file, line, rule (`torn`, `not_json`, `bad_record`, `duplicate_id`), detail."""

    def counts(self) -> dict[str, int]:
        return dict(Counter(entry["rule"] for entry in self.quarantined))

    def days(self) -> list[str]:
        return sorted({day_of(item) for item in self.interactions})


def day_of(interaction: Interaction) -> str:
    """The UTC date on which the request came in: the partition it belongs to."""
    return _instant(interaction.received_at).date().isoformat()


def read_segments(folder: Path) -> Segments:
    """Read every `*.jsonl` of `folder`, in name order; of lines with the same id the first wins."""
    seen: set[str] = set()
    good: list[Interaction] = []
    bad: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line, complete in _lines(path):
            item, rule, detail = _parse(line, complete)
            if item is None or item.id in seen:
                what = {"rule": rule, "detail": detail} if item is None else {"rule": "duplicate_id", "detail": item.id}
                bad.append({"file": path.name, "line": number, **what})
            else:
                seen.add(item.id)
                good.append(item)
    good.sort(key=lambda item: (_instant(item.received_at), item.id))
    return Segments(good, bad)


def interactions_table(interactions: Sequence[Interaction], day: str, opinions: Mapping[str, Opinion] | None = None) -> pa.Table:
    """The interactions of one UTC day as rows of `SCHEMA` with what users said, in time order (ties by id)."""
    said = opinions or {}
    rows = [_row(item, said.get(item.id, Opinion())) for item in interactions if day_of(item) == day]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The last thing that the user said."""
    return next((str(message.get("content", "")) for message in reversed(messages) if message.get("role") == "user"), "")


def _row(item: Interaction, said: Opinion) -> dict[str, Any]:
    row = vars(item) | vars(said) | {"question": question_of(item.messages)}
    return row | {name: json.dumps(row[name], ensure_ascii=False, sort_keys=True) for name in _JSON}


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line, line.endswith(b"\n")


def _parse(line: bytes, complete: bool) -> tuple[Interaction | None, str, str]:
    try:
        raw = json.loads(line)
    except ValueError:
        return None, "not_json" if complete else "torn", f"{len(line)} bytes"
    try:
        return _interaction(raw), "", ""
    except (InputError, ConfigError) as error:
        return None, "bad_record", str(error)


def _interaction(raw: Any) -> Interaction:
    if not isinstance(raw, dict):
        raise InputError(f"expected a JSON object, received {type(raw).__name__}")
    for name, kind in _REQUIRED.items():
        if not isinstance(raw.get(name), kind):
            raise InputError(f"{name}: expected {kind}, received {type(raw.get(name)).__name__}")
    if any(not isinstance(message, dict) for message in raw["messages"]):
        raise InputError("messages: expected a list of objects")
    for name, kinds in _OPTIONAL.items():
        if name in raw and not isinstance(raw[name], kinds):
            raise InputError(f"{name}: expected {' or '.join(kind.__name__ for kind in kinds)}, received {type(raw[name]).__name__}")
    user = raw.get("user")
    known = {name: raw[name] for name in (*_REQUIRED, *_OPTIONAL) if name in raw}
    item = Interaction(**known, user=None if user is None else str(user))
    _instant(item.received_at)
    return item


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"received_at: expected ISO 8601, received {text[:40]!r}") from None
    if moment.tzinfo is None:
        raise InputError(f"received_at: expected an offset from UTC, received {text!r}")
    return moment.astimezone(UTC)
