"""The other two of OpenAI's requests: completions of a text (the older kind) and embeddings."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import near
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.protocol import GATEWAY_FIELDS, ChatRequest, parse_chat

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMPLETION_FIELDS = (
    "prompt", *(name for name in GATEWAY_FIELDS if name not in (
        "messages", "max_completion_tokens", "logprobs", "top_logprobs", "response_format", "tools", "tool_choice", "parallel_tool_calls",
    )),
)  # fmt: skip
EMBEDDING_FIELDS = ("model", "input", "encoding_format", "user")
MOST_INPUTS = 256


def parse_completion(body: Any) -> ChatRequest:
    """A text that the engine goes on with as it is, without the release's prompt; guarded like a question.

    With `retrieval`, or by an engine that only chats, it is answered as a question.
    """
    if not isinstance(body, Mapping):
        raise HttpError(400, f"expected a JSON object, received {type(body).__name__}")
    if unknown := [name for name, value in body.items() if name not in COMPLETION_FIELDS and value is not None]:
        raise HttpError(400, f"unsupported field {unknown[0]!r}{near(str(unknown[0]), COMPLETION_FIELDS)}", code="unsupported_field")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise HttpError(400, "prompt: expected one text", code="unsupported_value")
    rest = {name: value for name, value in body.items() if name in COMPLETION_FIELDS and name != "prompt"}
    request = parse_chat({**rest, "messages": [{"role": "user", "content": prompt}]}, GATEWAY_FIELDS)
    return replace(request, raw=not request.retrieval)


@dataclass(frozen=True)
class EmbeddingRequest:
    """Texts to embed."""

    model: str
    texts: Sequence[str]
    base64: bool


def parse_embedding(body: Any, longest: int) -> EmbeddingRequest:
    """`longest`: characters of all texts together."""
    if not isinstance(body, Mapping):
        raise HttpError(400, f"expected a JSON object, received {type(body).__name__}")
    if unknown := [name for name, value in body.items() if name not in EMBEDDING_FIELDS and value is not None]:
        raise HttpError(400, f"unsupported field {unknown[0]!r}{near(str(unknown[0]), EMBEDDING_FIELDS)}", code="unsupported_field")
    for name in ("model", "user"):
        if body.get(name) is not None and not (isinstance(body[name], str) and len(body[name]) <= 200):
            raise HttpError(400, f"{name}: expected a string of at most 200 characters")
    texts = [body.get("input")] if isinstance(body.get("input"), str) else body.get("input")
    if not isinstance(texts, list) or not 0 < len(texts) <= MOST_INPUTS or not all(isinstance(text, str) and text for text in texts):
        raise HttpError(400, f"input: expected a text or 1 to {MOST_INPUTS} texts, none empty")
    if sum(map(len, texts)) > longest:
        raise HttpError(400, f"input: more than {longest} characters", code="prompt_too_long")
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise HttpError(400, f"encoding_format: received {body['encoding_format']!r}, expected float or base64")
    return EmbeddingRequest(str(body.get("model") or "default"), texts, body.get("encoding_format") == "base64")


def embedding_reply(request: EmbeddingRequest, vectors: NDArray[np.float32]) -> dict[str, Any]:
    tokens = sum(len(text) // 4 + 1 for text in request.texts)
    shown = [base64.b64encode(v.astype("<f4").tobytes()).decode() if request.base64 else [float(x) for x in v] for v in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(shown)]
    return {"object": "list", "model": request.model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
