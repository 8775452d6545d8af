"""OpenAI's chat completion, as much of it as we honour: what is not honoured is refused, never ignored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_pipeline.errors import near
from llm_pipeline.serving.asgi import HttpError

ROLES = ("system", "user", "assistant")
ENGINE_FIELDS = (
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens",
    "stop", "n", "user", "logprobs",
)  # fmt: skip
GATEWAY_FIELDS = (*ENGINE_FIELDS[:-1], "retrieval")
DEFAULT_MAX_TOKENS = 128


@dataclass(frozen=True)
class ChatRequest:
    """A checked request; `temperature` 0 (the default) is greedy."""

    messages: list[dict[str, str]]
    stream: bool = False
    include_usage: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    user: str | None = None
    logprobs: bool = False
    retrieval: bool | None = None
    model: str = "default"


def parse_chat(body: Any, fields: Sequence[str] = ENGINE_FIELDS) -> ChatRequest:
    """Check a request body; raises `HttpError` 400 that names the field, what was received and what is expected."""
    if not isinstance(body, Mapping):
        raise HttpError(400, f"expected a JSON object, received {type(body).__name__}")
    unknown = [name for name in body if name not in fields]
    if unknown:
        raise HttpError(400, f"unsupported field {unknown[0]!r}{near(str(unknown[0]), fields)}", code="unsupported_field")
    if body.get("n") not in (None, 1):
        raise HttpError(400, f"n: received {body['n']!r}, only 1 is supported", code="unsupported_value")
    temperature = _number(body, "temperature", 0.0, 0.0, 2.0)
    logprobs = _boolean(body, "logprobs") or False
    if logprobs and temperature > 0:
        raise HttpError(400, "logprobs are given for greedy requests (temperature 0) only", code="unsupported_value")
    longest = body.get("max_completion_tokens") if body.get("max_tokens") is None else body["max_tokens"]
    if longest is not None and (not isinstance(longest, int) or isinstance(longest, bool) or longest < 1):
        raise HttpError(400, f"max_tokens: received {longest!r}, expected an integer >= 1")
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping) or set(options) - {"include_usage"}:
        raise HttpError(400, f"stream_options: received {options!r}, expected {{'include_usage': bool}}")
    user = body.get("user")
    if user is not None and not (isinstance(user, str) and len(user) <= 200):
        raise HttpError(400, "user: expected a string of at most 200 characters")
    return ChatRequest(
        messages=_messages(body.get("messages")),
        stream=_boolean(body, "stream") or False,
        include_usage=bool(options.get("include_usage")),
        temperature=temperature,
        top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
        max_tokens=longest,
        stop=_stop(body.get("stop")),
        user=user,
        logprobs=logprobs,
        retrieval=_boolean(body, "retrieval"),
        model=str(body.get("model") or "default"),
    )


def _messages(raw: Any) -> list[dict[str, str]]:
    if not isinstance(raw, list) or not raw:
        raise HttpError(400, "messages: expected a list of at least one message")
    messages = []
    for i, message in enumerate(raw):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise HttpError(400, f"messages[{i}].role: received {role!r}, expected one of {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise HttpError(400, f"messages[{i}].content: expected text")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise HttpError(400, f"messages[{i}].content: not valid Unicode (an unpaired surrogate)") from None
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user":
        raise HttpError(400, "messages: the last one must be the user's")
    return messages


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise HttpError(400, f"{name}: received {value!r}, expected a number from {low:g} to {high:g}")
    return float(value)


def _boolean(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise HttpError(400, f"{name}: received {value!r}, expected true or false")
    return value


def _stop(raw: Any) -> tuple[str, ...]:
    stops = [] if raw is None else [raw] if isinstance(raw, str) else raw
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise HttpError(400, f"stop: received {raw!r}, expected a string or up to 4 strings, none empty")
    return tuple(stops)


def completion(identity: str, model: str, text: str, finish: str, usage: Mapping[str, int], **extra: Any) -> dict[str, Any]:
    """A whole reply; `extra` are further fields, `logprobs` among them going to the choice."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": extra.pop("logprobs", None)}
    return {**_head(identity, "chat.completion", model), "choices": [choice], "usage": _usage(usage), **extra}


def chunk(identity: str, model: str, delta: Mapping[str, str], finish: str | None = None, **extra: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": extra.pop("logprobs", None)}
    return {**_head(identity, "chat.completion.chunk", model), "choices": [choice], **extra}


def text_chunk(identity: str, model: str, text: str, *, first: bool) -> dict[str, Any]:
    return chunk(identity, model, {"role": "assistant", "content": text} if first else {"content": text})


def usage_chunk(identity: str, model: str, usage: Mapping[str, int]) -> dict[str, Any]:
    return {**_head(identity, "chat.completion.chunk", model), "choices": [], "usage": _usage(usage)}


def _head(identity: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": identity, "object": kind, "created": int(time.time()), "model": model}


def _usage(usage: Mapping[str, int]) -> dict[str, int]:
    return {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}


def models(names: Sequence[str]) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "llm_pipeline"} for name in names]}
