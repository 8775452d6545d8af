"""The schemas that the gateway's OpenAPI document is put together from."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def obj(properties: Schema, *required: str) -> Schema:
    """An object with these properties, perhaps others."""
    return {"type": "object", "properties": properties, "required": list(required)}


def maybe(schema: Schema) -> Schema:
    """`schema`, or null, which is the same as leaving the field out."""
    return {"anyOf": [schema, {"type": "null"}]}


def at_most(schema: Schema, count: int) -> Schema:
    return schema | {"maxProperties": count}


def message() -> Schema:
    """A message of any role; of an assistant's, either its words or the calls of tools that it made."""
    part = obj({"type": {"const": "text"}, "text": {"type": "string"}}, "type", "text")
    words: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}
    function = obj({"name": {"type": "string"}, "arguments": {"type": "string"}}, "name", "arguments")
    calls: Schema = {"type": "array", "minItems": 1, "items": obj({"id": {"type": "string"}, "function": function}, "function")}
    no_calls: Schema = {"type": "array", "maxItems": 0}
    return {
        "oneOf": [
            obj({"role": {"enum": ["system", "developer", "user"]}, "content": words}, "role", "content"),
            obj({"role": {"const": "assistant"}, "content": words, "tool_calls": maybe(no_calls)}, "role", "content"),
            obj({"role": {"const": "assistant"}, "content": maybe(words), "tool_calls": calls}, "role", "tool_calls"),
            obj({"role": {"const": "tool"}, "content": words, "tool_call_id": {"type": "string"}}, "role", "content", "tool_call_id"),
        ]
    }


INTEGER: Schema = {"type": "integer"}
STRING: Schema = {"type": "string"}
ERROR = obj(
    {
        "error": obj(
            {"message": STRING, "type": STRING, "param": {"type": "null"}, "code": maybe(STRING)}, "message", "type", "param", "code"
        )
    },
    "error",
)
USAGE = obj(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), INTEGER), "prompt_tokens", "total_tokens")
_HEAD = {"id": STRING, "object": STRING, "created": INTEGER, "model": STRING, "usage": USAGE}
_CHOICE = {"index": INTEGER, "finish_reason": STRING}


def _reply(choice: Schema) -> Schema:
    extras = {"interaction_id": STRING, "release": STRING, "passages": {"type": "array", "items": {"type": "object"}}}
    return obj({**_HEAD, **extras, "choices": {"type": "array", "minItems": 1, "items": choice}}, *_HEAD, "choices")


CHAT_REPLY = _reply(
    obj(_CHOICE | {"message": obj({"role": {"const": "assistant"}, "content": maybe(STRING)}, "role", "content")}, *_CHOICE, "message")
)
TEXT_REPLY = _reply(obj(_CHOICE | {"text": STRING}, *_CHOICE, "text"))
EMBEDDING_REPLY = obj(
    {
        "object": {"const": "list"},
        "model": STRING,
        "data": {"type": "array", "items": obj({"index": INTEGER, "embedding": {"type": ["array", "string"]}}, "index", "embedding")},
    },
    "object", "model", "data",
)  # fmt: skip
MODELS_REPLY = obj({"object": {"const": "list"}, "data": {"type": "array", "items": obj({"id": STRING}, "id")}}, "object", "data")
READY_REPLY = obj(
    {"ready": {"type": "boolean"}, "revision": INTEGER, "traffic": {"type": "object"}, "waiting_for": {"type": "array"}}, "ready"
)
