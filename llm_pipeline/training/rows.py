"""The rows that each method trains on, checked before anything is loaded: a bad one is named by file and number.

    sft, distill   messages: [{role, content}, ...] with an assistant turn
    pretrain       text
    dpo, reward    prompt, chosen, rejected
    kto            prompt, completion, label (true: liked)

A prompt is a string (one user turn) or messages; an answer is a string or one assistant message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError
from llm_pipeline.training.recipe import Method

Row = dict[str, Any]
Messages = list[dict[str, str]]
COLUMNS: Mapping[Method, tuple[str, ...]] = {
    "sft": ("messages",),
    "distill": ("messages",),
    "pretrain": ("text",),
    "dpo": ("prompt", "chosen", "rejected"),
    "reward": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
}


def read_rows(path: Path, method: Method) -> list[Row]:
    """The rows of a JSON-lines file with their columns for `method` checked and in one form; others are kept as they are."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected JSON lines with {', '.join(COLUMNS[method])}")
    with path.open("rb") as file:
        rows = [_row(line, method, f"{path}:{number}") for number, line in enumerate(file, 1)]
    if not rows:
        raise InputError(f"{path}: no rows; expected JSON lines with {', '.join(COLUMNS[method])}")
    return rows


def _row(line: bytes, method: Method, where: str) -> Row:
    try:
        row = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        shown = line[:80].decode("utf-8", "replace").strip()
        raise InputError(f"{where}: expected one JSON object per line, received {shown!r} ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, received {type(row).__name__}")
    wanted = COLUMNS[method]
    if missing := [name for name in wanted if name not in row]:
        raise InputError(f"{where}: no {missing[0]!r}; {method} expects the keys {', '.join(wanted)}, received {', '.join(row) or 'none'}")
    return row | {name: _CHECKS[name](row[name], f"{where}: {name}") for name in wanted}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: expected text, received {_shown(value)}")
    return value


def _messages(value: Any, where: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where}: expected a list of {{role, content}}, received {_shown(value)}")
    for i, message in enumerate(value):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            keys = ", ".join(map(str, message)) if isinstance(message, Mapping) else _shown(message)
            raise InputError(f"{where}[{i}]: expected the keys role, content, received {keys or 'none'}")
        _text(message["role"], f"{where}[{i}].role")
        _text(message["content"], f"{where}[{i}].content")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _prompt(value: Any, where: str) -> Messages:
    messages = [{"role": "user", "content": _text(value, where)}] if isinstance(value, str) else _messages(value, where)
    if messages[-1]["role"] == "assistant":
        raise InputError(f"{where}: expected the last turn to be the user's, received one of the assistant")
    return messages


def _answer(value: Any, where: str) -> Messages:
    messages = [{"role": "assistant", "content": _text(value, where)}] if isinstance(value, str) else _messages(value, where)
    if [message["role"] for message in messages] != ["assistant"]:
        raise InputError(f"{where}: expected one assistant message, received {[message['role'] for message in messages]}")
    return messages


def _label(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where}: expected true or false, received {_shown(value)}")
    return value


def _conversation(value: Any, where: str) -> Messages:
    messages = _messages(value, where)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise InputError(f"{where}: no token to learn in a conversation of {roles}: expected an assistant turn")
    return messages


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "messages": _conversation,
    "text": _text,
    "prompt": _prompt,
    "chosen": _answer,
    "rejected": _answer,
    "completion": _answer,
    "label": _label,
}
