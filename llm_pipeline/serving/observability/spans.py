"""One interaction as spans after OpenTelemetry's semantic conventions for generative AI.

POST /v1/chat/completions (server) > guardrails, retrieval, chat <model> (client; absent when the answer came from the cache)

The log knows how long each part took; they are laid one after the other, in the order in which the gateway does them.
https://github.com/open-telemetry/semantic-conventions-genai
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from llm_pipeline.serving.observability.otlp import CLIENT, INTERNAL, SERVER, Span

_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "n": "choice.count",
    "stop": "stop_sequences",
}
Attributes = dict[str, Any]


def spans_of(row: Mapping[str, Any], ended: int, *, content: bool = False) -> list[Span]:
    """The spans of a row of the interaction log whose reply ended at `ended` (nanoseconds since 1970)."""
    seconds = row["seconds"]
    begun = ended - _nanoseconds(seconds.get("total"))
    trace, root = row["trace_id"] or secrets.token_hex(16), row.get("span_id") or secrets.token_hex(8)
    error = (row.get("error") or "error") if row["finish_reason"] == "error" else None

    def span(name: str, kind: int, start: int, end: int, attributes: Attributes, error: str | None = None) -> Span:
        return Span(name, kind, trace, secrets.token_hex(8), root, start, min(end, ended), _set(attributes), error)

    parent = row.get("parent_span_id") or ""
    spans = [Span("POST /v1/chat/completions", SERVER, trace, root, parent, begun, ended, _set(_request(row)), error)]
    at = begun + _nanoseconds(seconds.get("queue"))
    if guarded := _nanoseconds(seconds.get("guardrails")):
        spans.append(span("guardrails", INTERNAL, at, at + guarded, _guardrails(row)))
        at += guarded
    if found := _nanoseconds(seconds.get("retrieval")):
        spans.append(span("retrieval", CLIENT, at, at + found, _retrieval(row, content=content)))
        at += found
    if row.get("cache") not in ("hit", "semantic") and (row.get("upstreams") or "first_token" in seconds):
        spans.append(span(f"chat {_model(row)}", CLIENT, at, ended, _chat(row, content=content), error))
    return spans


def _request(row: Mapping[str, Any]) -> Attributes:
    return {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": row.get("status", 200),
        "error.type": row.get("error"),
        "user.id": row.get("user"),
        "llm_pipeline.interaction": row["id"],
        "llm_pipeline.release": row["release"],
        "llm_pipeline.variant": row.get("variant"),
        "llm_pipeline.key": row["key"],
        "llm_pipeline.cache": row.get("cache"),
        "llm_pipeline.cost": row.get("cost"),
        "llm_pipeline.finish_reason": row["finish_reason"],
    }


def _guardrails(row: Mapping[str, Any]) -> Attributes:
    events = row.get("guardrail_events") or []
    return {
        "llm_pipeline.guardrails.rules": list(row["guardrails"]),
        "llm_pipeline.guardrails.actions": [str(event.get("action", "")) for event in events],
    }


def _retrieval(row: Mapping[str, Any], *, content: bool) -> Attributes:
    documents = [{"id": passage["id"], "score": passage["score"]} for passage in row["passages"]]
    question = next((str(m.get("content", "")) for m in reversed(row["messages"]) if m.get("role") == "user"), "")
    return {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.retrieval.documents": json.dumps(documents),
        "gen_ai.retrieval.query.text": question if content else None,
    }


def _chat(row: Mapping[str, Any], *, content: bool) -> Attributes:
    parameters = row.get("parameters") or {}
    seconds = row["seconds"]
    known: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider(row),
        "gen_ai.request.model": _model(row),
        "gen_ai.response.model": row["release"],
        "gen_ai.response.id": row["id"],
        "gen_ai.response.finish_reasons": [row["finish_reason"]],
        "gen_ai.response.time_to_first_chunk": seconds.get("first_token"),
        "gen_ai.usage.input_tokens": row["usage"].get("prompt_tokens"),
        "gen_ai.usage.output_tokens": row["usage"].get("completion_tokens"),
        "gen_ai.prompt.name": (row.get("prompt") or {}).get("id"),
        "gen_ai.request.stream": parameters.get("stream"),
        "error.type": row.get("error"),
    }
    known |= {f"gen_ai.request.{name}": parameters.get(ours) for ours, name in _PARAMETERS.items()}
    if content:
        turns = [message for message in row["messages"] if message["role"] != "system"]
        system = [_part(message) for message in row["messages"] if message["role"] == "system"]
        said = {"role": "assistant", "parts": [_part({"content": row["answer"]})], "finish_reason": row["finish_reason"]}
        known |= {
            "gen_ai.input.messages": json.dumps([{"role": m["role"], "parts": [_part(m)]} for m in turns], ensure_ascii=False),
            "gen_ai.output.messages": json.dumps([said], ensure_ascii=False),
            "gen_ai.system_instructions": json.dumps(system, ensure_ascii=False) if system else None,
        }
    return known


def _part(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message's content in the form of the convention's message schemas."""
    content = message.get("content")
    return {"type": "text", "content": content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)}


def _model(row: Mapping[str, Any]) -> str:
    return str((row.get("parameters") or {}).get("model") or "default")


def _provider(row: Mapping[str, Any]) -> str:
    upstreams: Sequence[Mapping[str, Any]] = row.get("upstreams") or ()
    return str(upstreams[-1].get("provider") or "llm_pipeline") if upstreams else "llm_pipeline"


def _set(attributes: Attributes) -> Attributes:
    """Only what is known."""
    return {name: value for name, value in attributes.items() if value not in (None, "", [], ())}


def _nanoseconds(seconds: float | None) -> int:
    return int((seconds or 0.0) * 1e9)
