"""The gateway's OpenAPI document: what the protocol's parsers accept, field by field, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llm_pipeline.serving.gateway.openapi_parts import (
    CHAT_REPLY,
    EMBEDDING_REPLY,
    ERROR,
    MODELS_REPLY,
    READY_REPLY,
    TEXT_REPLY,
    at_most,
    maybe,
    message,
    obj,
)
from llm_pipeline.serving.gateway.protocol import MOST_CHOICES
from llm_pipeline.serving.gateway.protocol_more import COMPLETION_FIELDS, MOST_INPUTS
from llm_pipeline.serving.observability.feedback import MOST_CHARACTERS

Schema = dict[str, Any]
TEXT = {"type": "string", "maxLength": 200}
ONE_TEXT = {"type": "string", "minLength": 1}


def chat_fields(models: Sequence[str], max_output_tokens: int) -> dict[str, Schema]:
    """The fields of /v1/chat/completions; a test holds them against `protocol.GATEWAY_FIELDS`."""
    tokens = maybe({"type": "integer", "minimum": 1, "maximum": max_output_tokens})
    function = obj({"name": {"type": "string"}}, "name")
    tool = obj({"type": {"const": "function"}, "function": function}, "type", "function")
    schema = obj({"type": {"const": "json_schema"}, "json_schema": obj({"schema": {"type": "object"}}, "schema")}, "type", "json_schema")
    return {
        "model": {"enum": [*models, None] if models else [None], "description": "Which release answers is not the client's choice."},
        "messages": {"type": "array", "minItems": 1, "items": message(), "contains": obj({"role": {"const": "user"}}, "role")},
        "stream": maybe({"type": "boolean"}),
        "stream_options": maybe(
            {"type": "object", "properties": {"include_usage": maybe({"type": "boolean"})}, "additionalProperties": False}
        ),
        "temperature": maybe({"type": "number", "minimum": 0, "maximum": 2, "description": "0, the default, is greedy."}),
        "top_p": maybe({"type": "number", "minimum": 1e-6, "maximum": 1}),
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "stop": {"anyOf": [ONE_TEXT, {"type": "array", "maxItems": 4, "items": ONE_TEXT}, {"type": "null"}]},
        "user": maybe(TEXT | {"description": "Who asks; the same user gets the same release while traffic stays."}),
        "logprobs": maybe({"type": "boolean"}),
        "n": maybe({"type": "integer", "minimum": 1, "maximum": MOST_CHOICES}),
        "seed": maybe({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
        "top_logprobs": maybe({"type": "integer", "minimum": 0, "maximum": 20}),
        "presence_penalty": maybe({"type": "number", "minimum": -2, "maximum": 2}),
        "frequency_penalty": maybe({"type": "number", "minimum": -2, "maximum": 2}),
        "response_format": {"anyOf": [obj({"type": {"enum": ["text", "json_object"]}}, "type"), schema, {"type": "null"}]},
        "tools": maybe({"type": "array", "minItems": 1, "maxItems": 128, "items": tool}),
        "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required", None]}, {"type": "object"}]},
        "parallel_tool_calls": maybe({"type": "boolean"}),
        "adapter": maybe(TEXT | {"description": "A LoRA adapter that the engine serves."}),
        "retrieval": maybe({"type": "boolean", "description": "Answer over retrieved passages, whatever the release does by default."}),
        "metadata": maybe(at_most({"type": "object", "additionalProperties": {"type": "string", "maxLength": 512}}, 16)),
    }


def chat_body(models: Sequence[str], max_output_tokens: int) -> Schema:
    """The whole body, with what its fields ask of one another."""
    fields = chat_fields(models, max_output_tokens)
    with_logprobs: Schema = {"required": ["logprobs"], "properties": {"logprobs": {"const": True}}}
    with_tools: Schema = {"required": ["tools"], "properties": {"tools": {"type": "array"}}}
    lengths: list[Schema] = [{"properties": {name: {"type": "null"}}} for name in ("max_tokens", "max_completion_tokens")]
    return {
        "type": "object",
        "properties": fields,
        "required": ["messages"],
        "additionalProperties": False,
        "allOf": [
            {"anyOf": [with_logprobs, {"properties": {"top_logprobs": {"enum": [0, None]}}}]},
            {"anyOf": [with_tools, {"properties": {"tool_choice": {"enum": ["none", None]}}}]},
            {"anyOf": lengths},
        ],
    }


def completion_body(models: Sequence[str], max_output_tokens: int) -> Schema:
    """The older kind: a text instead of messages; null is welcome under any name."""
    fields = {name: schema for name, schema in chat_fields(models, max_output_tokens).items() if name in COMPLETION_FIELDS}
    prompt: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string"}}]}
    return {
        "type": "object",
        "properties": {"prompt": prompt, **fields},
        "required": ["prompt"],
        "additionalProperties": {"type": "null"},
    }


def embedding_body() -> Schema:
    """One text or several."""
    texts: Schema = {"anyOf": [ONE_TEXT, {"type": "array", "minItems": 1, "maxItems": MOST_INPUTS, "items": ONE_TEXT}]}
    fields = {"model": maybe(TEXT), "input": texts, "encoding_format": {"enum": ["float", "base64", None]}, "user": maybe(TEXT)}
    return {"type": "object", "properties": fields, "required": ["input"], "additionalProperties": {"type": "null"}}


def feedback_body() -> Schema:
    """A rating, a comment or a correction, or several of them."""
    words = maybe({"type": "string", "maxLength": MOST_CHARACTERS})
    rating: Schema = {"anyOf": [{"enum": ["up", "down", None]}, {"type": "number", "minimum": 1, "maximum": 5}]}
    some: list[Schema] = [{"required": [name], "properties": {name: ONE_TEXT}} for name in ("comment", "correction")]
    given: Schema = {"required": ["rating"], "properties": {"rating": {"type": ["string", "number"]}}}
    return {
        "type": "object",
        "properties": {
            "interaction_id": {"type": "string", "minLength": 1, "maxLength": 200},
            "rating": rating,
            "comment": words,
            "correction": words,
        },
        "required": ["interaction_id"],
        "additionalProperties": False,
        "anyOf": [given, *some],
    }


def document(paths: Collection[str], models: Sequence[str] = ("default",), max_output_tokens: int = 4096) -> dict[str, Any]:
    """The document of a gateway that serves `paths` ("POST /v1/chat/completions", ...) and these models."""
    known = {
        "POST /v1/chat/completions": _operation("chat", _answers(CHAT_REPLY, stream=True), chat_body(models, max_output_tokens)),
        "POST /v1/completions": _operation("complete", _answers(TEXT_REPLY, stream=True), completion_body(models, max_output_tokens)),
        "POST /v1/embeddings": _operation("embed", _answers(EMBEDDING_REPLY), embedding_body()),
        "POST /v1/feedback": _operation("feedback", _answers(obj({"ok": {"const": True}}, "ok")), feedback_body()),
        "GET /v1/models": _operation("models", _answers(MODELS_REPLY)),
        "GET /healthz": _operation("healthz", _answers(obj({"status": {"const": "ok"}}, "status")), open_to_all=True),
        "GET /readyz": _operation("readyz", _answers(READY_REPLY) | {"503": _json("Not ready", READY_REPLY)}, open_to_all=True),
        "GET /metrics": _operation(
            "metrics", {"200": {"description": "Prometheus", "content": {"text/plain": {"schema": {"type": "string"}}}}}, open_to_all=True
        ),
        "GET /openapi.json": _operation("openapi", _answers({"type": "object"}), open_to_all=True),
    }
    shown: dict[str, dict[str, Any]] = {}
    for place in paths:
        if place in known:
            method, _, path = place.partition(" ")
            shown.setdefault(path, {})[method.lower()] = known[place]
    return {
        "openapi": "3.1.0",
        "info": {"title": "llm-pipeline gateway", "version": "1", "description": "OpenAI-compatible; what is not honoured is refused."},
        "paths": shown,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(name: str, responses: Mapping[str, Any], body: Schema | None = None, *, open_to_all: bool = False) -> dict[str, Any]:
    failures = {"4XX": _json("Refused", ERROR), **({} if "503" in responses else {"5XX": _json("Failed", ERROR)})}
    operation: dict[str, Any] = {"operationId": name, "responses": {**responses, **failures}}
    if not open_to_all:
        operation["security"] = [{"key": []}]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _answers(schema: Schema, *, stream: bool = False) -> dict[str, Any]:
    reply = _json("Answered", schema)
    if stream:
        reply["content"]["text/event-stream"] = {"schema": obj({"data": {"type": "string"}}, "data")}
    return {"200": reply}


def _json(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
