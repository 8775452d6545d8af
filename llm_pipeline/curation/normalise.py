"""Raw rows into documents: decoded, repaired, stripped of page furniture, with language and stable ids; nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from llm_pipeline.curation.language import identify
from llm_pipeline.curation.ledger import Entry, ledger_table
from llm_pipeline.curation.normalise_formats import Draft, Unusable, from_file
from llm_pipeline.curation.normalise_rows import from_row
from llm_pipeline.curation.normalise_text import repair
from llm_pipeline.curation.poison import PoisonPolicy
from llm_pipeline.curation.raw_records import JSON
from llm_pipeline.errors import InputError
from llm_pipeline.store import content_hash

if TYPE_CHECKING:
    from llm_pipeline.curation.carry import Carried

__all__ = ["DOCUMENT_SCHEMA", "STAGE", "Draft", "Unusable", "draft_of", "normalise", "normalise_rows", "repair"]

STAGE = "documents"
_NEEDED = ("id", "source", "uri", "row", "external_id", "media_type", "content", "licence", "problem", "encoding")

_COLUMNS: dict[str, Any] = {
    "day": pa.string(),
    "id": pa.string(),
    "source": pa.string(),
    "uri": pa.string(),
    "row": pa.int64(),
    "external_id": pa.string(),
    "kind": pa.string(),
    "title": pa.string(),
    "text": pa.string(),
    "messages": pa.string(),
    "language": pa.string(),
    "language_score": pa.float64(),
    "licence": pa.string(),
}
DOCUMENT_SCHEMA = pa.schema(_COLUMNS)


def normalise(raw: pa.Table, day: str, strict: Collection[str] = (), poison: PoisonPolicy | None = None) -> tuple[pa.Table, pa.Table]:
    """The documents of one day, in the order of the raw rows, and their ledger.

    `strict` names the sources where damage is an InputError; with `poison`, pages with instructions in hidden markup are quarantined.
    """
    return normalise_rows(_records(raw), day, strict, poison)


def normalise_rows(
    rows: Iterable[Mapping[str, Any]],
    day: str,
    strict: Collection[str] = (),
    poison: PoisonPolicy | None = None,
    carried: Carried | None = None,
) -> tuple[pa.Table, pa.Table]:
    """The same for raw rows by their columns, also those `carried`; a row without an id has the hash that is its id in a table."""
    kept: list[tuple[Mapping[str, Any], str, Draft]] = []
    entries: list[Entry] = []
    seen: set[str] = set()
    for record in rows:
        try:
            draft = draft_of(record, poison)
        except Unusable as error:
            entries.append(_quarantined(record, *error.args, strict=record["source"] in strict))
            continue
        identity = _identity(record, orjson.dumps(draft.text))
        if identity in seen:
            entries.append(Entry(identity, record["uri"], record["row"], STAGE, "repeated_id", "removed"))
            continue
        seen.add(identity)
        kept.append((record, identity, draft))
        for change in dict.fromkeys(draft.changes) if draft.changes else ():
            entries.append(Entry(identity, record["uri"], record["row"], STAGE, change, "changed"))
    documents = _documents(kept, day)
    if carried:
        documents = carried.onto(documents, carried.of_rows([record["parsed"] or {} for record, _, _ in kept]))
    return documents, ledger_table(day, entries)


def _records(raw: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows by the columns that are needed; one that an older table does not have is empty."""
    names = [name for name in _NEEDED if name in raw.column_names]
    for values in zip(*(raw[name].to_pylist() for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def _quarantined(record: Mapping[str, Any], rule: str, detail: str, *, strict: bool) -> Entry:
    if strict and rule not in ("unsupported_format", "hidden_instruction"):
        where = f"{record['uri']}, row {record['row']}"
        raise InputError(f"source {record['source']!r} (policy strict): {where}: {rule}: {detail}")
    printable = detail.encode("utf-8", "replace").decode()
    identity = record.get("id") or _identity(record, record["content"])
    return Entry(identity, record["uri"], record["row"], STAGE, rule, "quarantined", detail=printable)


def _identity(record: Mapping[str, Any], content: bytes) -> str:
    """The content hash of a record's place and content; written as JSON here, which takes half the time."""
    return content_hash(_quoted(record["source"]).encode(), _quoted(record["uri"]).encode(), str(record["row"]).encode(), content)


def _documents(kept: list[tuple[Mapping[str, Any], str, Draft]], day: str) -> pa.Table:
    """Drafts with their provenance and languages as one table."""
    columns: dict[str, list[Any]] = {
        name: [record[name] for record, _, _ in kept] for name in ("source", "uri", "row", "external_id", "licence")
    }
    columns["day"] = [day] * len(kept)
    columns["id"] = [identity for _, identity, _ in kept]
    columns["kind"] = [draft.kind for _, _, draft in kept]
    columns["title"] = [draft.title for _, _, draft in kept]
    columns["text"] = [draft.text for _, _, draft in kept]
    columns["messages"] = [json.dumps(list(draft.messages), ensure_ascii=False) if draft.messages else None for _, _, draft in kept]
    languages = identify(columns["text"])
    columns["language"] = [language for language, _ in languages]
    columns["language_score"] = [score for _, score in languages]
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in DOCUMENT_SCHEMA], schema=DOCUMENT_SCHEMA)


def draft_of(record: Mapping[str, Any], poison: PoisonPolicy | None = None) -> Draft:
    """The document in one raw row; raises Unusable with a reason code."""
    if record.get("problem"):
        rule, _, detail = record["problem"].partition(":")
        raise Unusable(rule, detail.strip())
    if record["media_type"] == JSON:
        changes = ("decoded_from_other_encoding",) if record.get("encoding") else ()
        draft = from_row(record.get("parsed") or _row(record["content"]), changes, poison)
    else:
        draft = from_file(record["media_type"], record["content"], record["uri"], poison)
    if "\0" in draft.text:
        raise Unusable("nul_bytes", "the text has NUL characters")
    if not draft.text:
        raise Unusable("no_text", "nothing is left after stripping")
    return draft


def _row(content: bytes) -> dict[str, Any]:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unusable("invalid_json", type(error).__name__) from error
    if not isinstance(row, dict):
        raise Unusable("not_an_object", f"received {type(row).__name__}, expected a JSON object")
    return row
