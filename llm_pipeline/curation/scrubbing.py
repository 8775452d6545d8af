"""A day of documents without personal data: the scrubbed rows, where the spans were, and the ledger of what changed."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from llm_pipeline.curation.ledger import Entry, ledger_table
from llm_pipeline.curation.normalise import DOCUMENT_SCHEMA
from llm_pipeline.curation.pii import PiiPolicy, Span, scan_texts, scrub_messages, scrub_texts

_FIELDS: dict[str, Any] = {
    "id": pa.string(),
    "start": pa.int64(),
    "end": pa.int64(),
    "entity": pa.string(),
    "score": pa.float64(),
    "recogniser": pa.string(),
}
SPAN_SCHEMA: Any = pa.schema(_FIELDS)
Row = dict[str, Any]


def scrub_table(table: pa.Table, policy: PiiPolicy) -> tuple[pa.Table, pa.Table]:
    """The table with its column `text` scrubbed (a null becomes ""), and the spans as offsets into the texts that came in."""
    ids = list(map(str, table["id"].to_pylist()))
    texts, spans = scrub_texts([_string(value) for value in table["text"].to_pylist()], policy, ids)
    at = table.schema.get_field_index("text")
    field = table.schema.field(at)
    return table.set_column(at, field, pa.array(texts, field.type)), _span_table(ids, spans)


def _span_table(ids: Sequence[str], spans: Sequence[Span]) -> pa.Table:
    columns = {name: [getattr(span, name) for span in spans] for name in SPAN_SCHEMA.names[1:]}
    return pa.table({"id": [ids[span.text] for span in spans], **columns}, schema=SPAN_SCHEMA)


def scrub_day(documents: pa.Table, day: str, policy: PiiPolicy) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(scrubbed documents, spans, ledger); titles and messages are scrubbed too, spans are offsets into `text`."""
    columns: dict[str, list[Any]] = documents.select(["id", "text", "title", "messages"]).to_pydict()
    ids, original = columns["id"], columns["text"]
    both, found = scrub_texts([*original, *(title or "" for title in columns["title"])], policy, [*ids, *ids])
    texts, titles = both[: len(ids)], both[len(ids) :]
    spans = [span for span in found if span.text < len(ids)]
    by_row: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_row[span.text].append(span)
    new: dict[str, Any] = {"text": texts, "title": titles, "messages": _messages(ids, original, columns["messages"], by_row, policy)}
    scrubbed = [pa.array(new[field.name], field.type) if field.name in new else _column(documents, field) for field in DOCUMENT_SCHEMA]
    rows: list[Row] = documents.select(["id", "uri", "row"]).take(sorted(by_row)).to_pylist() if by_row else []
    entries = [
        _entry(row, entity, n, policy)
        for row, i in zip(rows, sorted(by_row), strict=True)
        for entity, n in sorted(Counter(s.entity for s in by_row[i]).items())
    ]
    return (
        pa.Table.from_arrays(scrubbed, schema=DOCUMENT_SCHEMA),
        _span_table(ids, spans),
        ledger_table(day, entries),
    )


def _column(documents: pa.Table, field: Any) -> Any:
    return documents[field.name].cast(field.type) if field.name in documents.column_names else pa.nulls(documents.num_rows, field.type)


def _messages(
    ids: Sequence[str], texts: Sequence[str], messages: Sequence[str | None], spans: dict[int, list[Span]], policy: PiiPolicy
) -> list[str | None]:
    """The messages of every row with the spans of its text taken out; what shows only in a message alone is taken out as well."""
    if not any(messages):
        return [None] * len(ids)
    said: list[list[dict[str, str]]] = [json.loads(turns) if turns else [] for turns in messages]
    for i, turns in enumerate(said):
        if turns and i in spans:
            said[i], _ = scrub_messages(texts[i], spans[i], turns, policy, ids[i])
    owners = [owner for owner, turns in zip(ids, said, strict=True) for _ in turns]
    contents = iter(scrub_texts([turn["content"] for turns in said for turn in turns], policy, owners)[0])
    cleaned = [[{**turn, "content": next(contents)} for turn in turns] for turns in said]
    return [json.dumps(turns, ensure_ascii=False) if before else None for before, turns in zip(messages, cleaned, strict=True)]


def _entry(row: Row, entity: str, n: int, policy: PiiPolicy) -> Entry:
    return Entry(
        row["id"],
        row["uri"],
        row["row"],
        "scrubbed_documents",
        f"pii_{entity.lower()}",
        "changed",
        float(n),
        f"{n} x {policy.mode(entity)}",
    )


def remaining(scrubbed: pa.Table, policy: PiiPolicy) -> dict[str, int]:
    """Personal data that a new scan still finds in texts, titles and messages, by type; empty is what a published day must give."""
    texts = [text or "" for name in ("text", "title") for text in map(_string, scrubbed[name].to_pylist())]
    for said in map(_string, scrubbed["messages"].to_pylist()):
        texts += [message["content"] for message in json.loads(said)] if said else []
    return dict(Counter(span.entity for span in scan_texts(texts, policy)))


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def examples(scrubbed: pa.Table, spans: pa.Table, n: int = 5, around: int = 60) -> list[dict[str, str]]:
    """A few scrubbed places as they now read, for the asset's page: a placeholder with the words around it, one per type."""
    texts = dict(zip(scrubbed["id"].to_pylist(), map(_string, scrubbed["text"].to_pylist()), strict=True))
    shown: dict[str, str] = {}
    for span in spans.to_pylist():
        at = texts[span["id"]].find(f"[{span['entity']}")
        if span["entity"] not in shown and at >= 0:
            shown[span["entity"]] = " ".join(texts[span["id"]][max(0, at - around) : at + around].split())
    return [{"entity": entity, "reads": text} for entity, text in sorted(shown.items())[:n]]
