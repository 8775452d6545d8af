"""OpenAI's chat completion, as much of it as we honour: what is not honoured is refused, never ignored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_pipeline.errors import near
from llm_pipeline.serving.gateway.asgi import HttpError

ROLES = ("system", "user", "assistant")
ENGINE_FIELDS = (
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens",
    "stop", "user", "logprobs",
)  # fmt: skip
"""What any engine honours."""
MORE_FIELDS = (
    "n", "seed", "top_logprobs", "presence_penalty", "frequency_penalty", "response_format", "tools", "tool_choice",
    "parallel_tool_calls", "adapter",
)  # fmt: skip
"""What some engines honour; one that does not refuses them."""
GATEWAY_FIELDS = (*ENGINE_FIELDS, *MORE_FIELDS, "retrieval", "metadata")
DEFAULT_MAX_TOKENS = 128
Reader = Callable[[Mapping[str, Any], str], Any]
MOST_CHOICES = 16


@dataclass
class ChatRequest:
    """A checked request, which nobody changes (freezing would cost as much as half of the checks); `temperature` 0 is greedy."""

    messages: list[dict[str, Any]]
    """Role and content of each; of a conversation with tools also what belongs to the calls."""
    stream: bool = False
    include_usage: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    user: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    response_format: Mapping[str, Any] | None = None
    """OpenAI's: type text, json_object or json_schema."""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    adapter: str | None = None
    retrieval: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    model: str = "default"
    raw: bool = False
    """The one message is a text to go on with, not a turn of a conversation."""


def parse_chat(body: Any, fields: Sequence[str] = ENGINE_FIELDS) -> ChatRequest:
    """Check a request body; raises `HttpError` 400 that names the field, what was received and what is expected."""
    _known(body, fields)
    found: dict[str, Any] = {"messages": _messages(body.get("messages"), with_tools="tools" in fields)}
    for name, value in body.items():
        if value is not None and name in _READERS:
            found[name] = _READERS[name](body, name)
    if (longest := found.pop("max_completion_tokens", None)) is not None:
        if "max_tokens" in found:
            raise HttpError(400, "max_tokens and max_completion_tokens are two names of one field: expected one of them")
        found["max_tokens"] = longest
    found["include_usage"] = found.pop("stream_options", False)
    request = ChatRequest(**found)
    if request.logprobs and request.temperature > 0 and "top_logprobs" not in fields:
        raise HttpError(400, "logprobs are given for greedy requests (temperature 0) only", code="unsupported_value")
    if request.top_logprobs and not request.logprobs:
        raise HttpError(400, "top_logprobs: needs logprobs: true")
    if request.tool_choice not in (None, "none") and not request.tools:
        raise HttpError(400, "tool_choice: needs tools")
    return request


def _known(body: Any, fields: Sequence[str]) -> None:
    if not isinstance(body, Mapping):
        raise HttpError(400, f"expected a JSON object, received {type(body).__name__}")
    for name, value in body.items():
        if name not in fields and not (name in GATEWAY_FIELDS and (value is None or (name == "n" and value == 1))):
            raise HttpError(400, f"unsupported field {name!r}{near(str(name), fields)}", code="unsupported_field")


def _messages(raw: Any, *, with_tools: bool) -> list[dict[str, Any]]:
    if not isinstance(raw, list) or not raw:
        raise HttpError(400, "messages: expected a list of at least one message")
    messages = [_message(i, message, with_tools) for i, message in enumerate(raw)]
    if not any(message["role"] == "user" for message in messages):
        raise HttpError(400, "messages: at least one must be the user's")
    return messages


def _message(i: int, raw: Any, with_tools: bool) -> dict[str, Any]:
    role = raw.get("role") if isinstance(raw, Mapping) else None
    if role == "developer":
        role = "system"  # the newer name of the same thing
    if role not in ROLES and not (with_tools and role == "tool"):
        raise HttpError(400, f"messages[{i}].role: received {role!r}, expected one of {', '.join(ROLES)}{', tool' * with_tools}")
    message: dict[str, Any] = {"role": role}
    if with_tools and role == "assistant" and raw.get("tool_calls"):
        message["tool_calls"] = _tool_calls(i, raw["tool_calls"])
    if role == "tool":
        message["tool_call_id"] = raw.get("tool_call_id")
        if not isinstance(message["tool_call_id"], str):
            raise HttpError(400, f"messages[{i}].tool_call_id: expected text")
    content = raw.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if content is None and "tool_calls" in message:
        content = ""
    if not isinstance(content, str):
        raise HttpError(400, f"messages[{i}].content: expected text")
    return {"role": role, "content": _unicode(f"messages[{i}].content", content), **message}


def _tool_calls(i: int, raw: Any) -> list[Any]:
    where = f"messages[{i}].tool_calls"
    if not isinstance(raw, list):
        raise HttpError(400, f"{where}: expected a list")
    for call in raw:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not isinstance(function.get("arguments"), str):
            raise HttpError(400, f"{where}: expected id, type and function with the texts name and arguments")
        _unicode(where, function["name"] + function["arguments"])
    return raw


def _unicode(where: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HttpError(400, f"{where}: not valid Unicode (an unpaired surrogate)") from None
    return text


def _tools(body: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    raw = body[name]
    if not isinstance(raw, list) or not 1 <= len(raw) <= 128:
        raise HttpError(400, "tools: expected a list of 1 to 128 tools")
    for i, tool in enumerate(raw):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or tool.get("type") != "function" or not isinstance(function.get("name"), str):
            raise HttpError(400, f"tools[{i}]: expected type function and a function with a name")
    return tuple(raw)


def _tool_choice(body: Mapping[str, Any], name: str) -> Any:
    value = body[name]
    if value not in ("none", "auto", "required") and not isinstance(value, Mapping):
        raise HttpError(400, f"tool_choice: received {value!r}, expected none, auto, required or a function")
    return value


def _response_format(body: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    raw = body[name]
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise HttpError(400, f"response_format: received {raw!r}, expected the type text, json_object or json_schema")
    if kind == "json_schema":
        described = raw.get("json_schema")
        if not isinstance(described, Mapping) or not isinstance(described.get("schema"), Mapping):
            raise HttpError(400, "response_format.json_schema: expected an object with a schema")
    return None if kind == "text" else raw


def _metadata(body: Mapping[str, Any], name: str) -> Mapping[str, str]:
    raw = body[name]
    if not isinstance(raw, Mapping) or len(raw) > 16 or not all(isinstance(value, str) and len(value) <= 512 for value in raw.values()):
        raise HttpError(400, "metadata: expected at most 16 texts of at most 512 characters")
    return raw


def _stream_options(body: Mapping[str, Any], name: str) -> bool:
    options = body[name]
    wanted = options.get("include_usage") if isinstance(options, Mapping) else 0
    if not (wanted is None or isinstance(wanted, bool)) or set(options) - {"include_usage"}:
        raise HttpError(400, f"stream_options: received {options!r}, expected {{'include_usage': bool}}")
    return bool(wanted)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body[name]
    if not (isinstance(value, str) and len(value) <= 200):
        raise HttpError(400, f"{name}: expected a string of at most 200 characters")
    return _unicode(name, value)


def _integer(low: int, high: int | None = None) -> Reader:
    expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"

    def read(body: Mapping[str, Any], name: str) -> int:
        value = body[name]
        if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
            value = int(value)  # JSON has one kind of number
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise HttpError(400, f"{name}: received {value!r}, expected {expected}")
        return value

    return read


def _number(low: float, high: float) -> Reader:
    def read(body: Mapping[str, Any], name: str) -> float:
        value = body[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise HttpError(400, f"{name}: received {value!r}, expected a number from {low:g} to {high:g}")
        return float(value)

    return read


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body[name]
    if not isinstance(value, bool):
        raise HttpError(400, f"{name}: received {value!r}, expected true or false")
    return value


def _stop(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    raw = body[name]
    stops = [raw] if isinstance(raw, str) else raw
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise HttpError(400, f"stop: received {raw!r}, expected a string or up to 4 strings, none empty")
    return tuple(stops)


_READERS: Mapping[str, Reader] = {
    "stream": _boolean,
    "stream_options": _stream_options,
    "temperature": _number(0.0, 2.0),
    "top_p": _number(1e-6, 1.0),
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "stop": _stop,
    "user": _text,
    "logprobs": _boolean,
    "top_logprobs": _integer(0, 20),
    "n": _integer(1, MOST_CHOICES),
    "seed": _integer(-(2**63), 2**63 - 1),
    "presence_penalty": _number(-2.0, 2.0),
    "frequency_penalty": _number(-2.0, 2.0),
    "response_format": _response_format,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": _boolean,
    "adapter": _text,
    "retrieval": _boolean,
    "metadata": _metadata,
    "model": _text,
}
"""Each reads the field of its name, which is there."""


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
