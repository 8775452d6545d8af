"""Small days of scrubbed documents and signatures in a lake, for the tests of the snapshot stages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llm_pipeline.curation.normalise import DOCUMENT_SCHEMA
from llm_pipeline.curation.signatures import sign
from llm_pipeline.store import Home, content_hash


def document(day: str, key: str, text: str, kind: str = "note", turns: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    messages = [{"role": role, "content": said} for turn in turns for role, said in zip(("user", "assistant"), turn, strict=True)]
    said = "\n".join(f"{'Customer' if m['role'] == 'user' else 'Agent'}: {m['content']}" for m in messages)
    uri = f"support://{kind}s/{key}"
    return {
        "day": day, "id": content_hash("support", uri, 0, text or said), "source": "support",
        "uri": uri, "row": 0, "external_id": key, "kind": kind,
        "title": key, "text": text or said, "messages": json.dumps(messages) if turns else None,
        "language": "en", "language_score": 1.0, "licence": "x",
    }  # fmt: skip


def fill(home: Home, days: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for day, rows in days.items():
        home.lake.replace("scrubbed_documents", day, pa.Table.from_pylist([dict(row) for row in rows], schema=DOCUMENT_SCHEMA))
        home.lake.replace("signatures", day, sign([row["id"] for row in rows], [row["text"] for row in rows]))
