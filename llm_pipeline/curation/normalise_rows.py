"""A row of JSONL, CSV or Parquet as a draft, by the names of its columns: conversations, pages or plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_pipeline.curation.normalise_formats import Draft, Unusable, finished, from_html
from llm_pipeline.curation.normalise_text import repair, title_of
from llm_pipeline.curation.poison import PoisonPolicy

KINDS = ("article", "conversation", "web", "note", "doc")
_ROLES = dict.fromkeys(("customer", "user", "human", "prompter", "client"), "user")
_ROLES |= dict.fromkeys(("agent", "assistant", "gpt", "bot", "support"), "assistant")
_ROLES["system"] = "system"
_SPEAKER = {"user": "Customer", "assistant": "Agent", "system": "System"}
_TITLES, _TEXTS = ("title", "subject", "heading"), ("text", "content", "body", "document", "passage")
_STRUCTURED = frozenset("kind messages conversation turns instruction prompt html".split())
"""What makes a row more than a title and a text."""
_OTHERS = ("conversation", "turns", "instruction", "prompt", "input", "context", "response", "output", "completion", "html")
_PAGE = re.compile(r"\s*<(!doctype|html|body|head|div)", re.I)


def read_from(columns: Sequence[str]) -> set[str]:
    """The columns that a document's id, title, text and messages are read from; of several texts a column `text` is the one."""
    return {"id", "title", "text", "messages"} | (set() if "text" in columns else {*_TITLES, *_TEXTS, *_OTHERS})


def from_row(row: Mapping[str, Any], changes: tuple[str, ...], poison: PoisonPolicy | None) -> Draft:
    """The draft of a row; raises Unusable when no column holds a text."""
    title = _string(row, _TITLES) or ""
    if _STRUCTURED.isdisjoint(row) and (text := _string(row, _TEXTS)) is not None:
        return finished("doc", title, text, changes)
    kind = row.get("kind") if row.get("kind") in KINDS else None
    messages = _turns(row.get("messages") or row.get("conversation") or row.get("turns"))
    if messages:
        return _conversation(title, [_message(turn) for turn in messages], changes)
    instruction, response = _string(row, ("instruction", "prompt")), _string(row, ("response", "output", "completion"))
    if instruction and response:
        asked = "\n\n".join(part for part in (instruction, _string(row, ("input", "context"))) if part)
        return _conversation(title, [("user", asked), ("assistant", response)], changes)
    if page := _string(row, ("html",)):
        return from_html(page, poison, title, kind or "web", changes)
    text = _string(row, _TEXTS)
    if text is None:
        if any(row.get(name) is not None for name in _TEXTS):
            raise Unusable("no_text", "the column is empty or holds no string")
        raise Unusable(
            "no_text_column", f"received columns {', '.join(map(str, row))[:120]}; expected text, content, body, html or messages"
        )
    if kind == "web" and _PAGE.match(text):
        return from_html(text, poison, title, changes=changes)
    return finished(kind or "doc", title, text, changes)


def _string(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value and not value.isspace():
            return value
    return None


def _turns(messages: Any) -> list[Any]:
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise Unusable("invalid_messages", "a string that starts like a list, but is not JSON") from error
    return messages if isinstance(messages, list) else []


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
    changed = (*changes, "encoding_repaired") if any(damaged for _, (_, damaged) in mended) else changes
    messages = tuple({"role": role, "content": content} for role, (content, _) in mended if content)
    text = "\n".join(f"{_SPEAKER[message['role']]}: {message['content']}" for message in messages)
    named = title_of(repair(title)[0]) if title else ""
    return Draft("conversation", named or title_of(messages[0]["content"] if messages else ""), text, messages, changed)
