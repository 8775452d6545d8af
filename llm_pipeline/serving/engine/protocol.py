"""What our worker is asked: OpenAI's chat and text completions, with the sampling parameters that vLLM adds to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_pipeline.serving.engine.generation import Sampling
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.protocol import ENGINE_FIELDS, ChatRequest, parse_chat

_SHARED = ("n", "seed", "presence_penalty", "frequency_penalty", "response_format", "adapter")
CHAT_FIELDS = (*ENGINE_FIELDS, *_SHARED, "top_logprobs")
TEXT_FIELDS = (*(name for name in CHAT_FIELDS if name not in ("messages", "max_completion_tokens", "top_logprobs")), "prompt")
_OWN = {"top_k": (-1, 1_000_000, int), "min_p": (0.0, 1.0, float), "repetition_penalty": (0.01, 10.0, float)}
MOST_PROMPTS = 64
MOST_TEXT_LOGPROBS = 5


@dataclass(frozen=True)
class EngineRequest:
    """A checked request. Each prompt is text, token ids, or, in a chat, the messages; each gets `chat.n` answers."""

    kind: Literal["chat", "text"]
    chat: ChatRequest
    prompts: Sequence[str | Sequence[int] | Sequence[Mapping[str, Any]]]
    logprobs: int | None
    own: Mapping[str, float]

    def sampling(self, choice: int) -> Sampling:
        """Equal seeds give equal answers; the choices of one request differ."""
        chat = self.chat
        return Sampling(
            temperature=chat.temperature,
            top_p=chat.top_p,
            top_k=max(int(self.own.get("top_k", 0)), 0),
            min_p=self.own.get("min_p", 0.0),
            presence_penalty=chat.presence_penalty,
            frequency_penalty=chat.frequency_penalty,
            repetition_penalty=self.own.get("repetition_penalty", 1.0),
            seed=None if chat.seed is None else f"{chat.seed}/{choice}",
            logprobs=self.logprobs,
        )


def parse_request(body: Any, kind: Literal["chat", "text"]) -> EngineRequest:
    """Raises `HttpError` 400 that names the field, what was received and what is expected."""
    if not isinstance(body, Mapping):
        raise HttpError(400, f"expected a JSON object, received {type(body).__name__}")
    own = {name: _number(name, body[name]) for name in _OWN if body.get(name) is not None}
    rest = {name: value for name, value in body.items() if name not in _OWN}
    if kind == "chat":
        chat = parse_chat(rest, CHAT_FIELDS)
        return EngineRequest(kind, chat, [chat.messages], chat.top_logprobs if chat.logprobs else None, own)
    prompts, logprobs = _prompts(rest.pop("prompt", None)), _text_logprobs(rest.pop("logprobs", None))
    if unknown := [name for name in rest if name not in TEXT_FIELDS and rest[name] is not None]:
        raise HttpError(400, f"unsupported field {unknown[0]!r}", code="unsupported_field")
    rest = {name: value for name, value in rest.items() if name in TEXT_FIELDS}
    chat = parse_chat({**rest, "messages": [{"role": "user", "content": "-"}]}, CHAT_FIELDS)
    return EngineRequest(kind, chat, prompts, logprobs, own)


def _number(name: str, value: Any) -> float:
    low, high, kind = _OWN[name]
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float) or not low <= value <= high:
        raise HttpError(400, f"{name}: received {value!r}, expected {'an integer' if kind is int else 'a number'} from {low:g} to {high:g}")
    return float(value)


def _prompts(raw: Any) -> list[str | Sequence[int]]:
    """OpenAI's four forms: text, a list of texts, token ids, a list of lists of them."""
    prompts: list[Any] = [raw] if isinstance(raw, str) or _ids(raw) else raw
    if not isinstance(prompts, list) or not 0 < len(prompts) <= MOST_PROMPTS or not all(isinstance(p, str) or _ids(p) for p in prompts):
        raise HttpError(400, f"prompt: expected text, token ids, or a list of 1 to {MOST_PROMPTS} of these")
    for prompt in prompts:
        try:
            prompt if not isinstance(prompt, str) else prompt.encode()
        except UnicodeEncodeError:
            raise HttpError(400, "prompt: not valid Unicode (an unpaired surrogate)") from None
    return prompts


def _ids(raw: Any) -> bool:
    return isinstance(raw, list) and bool(raw) and all(isinstance(i, int) and not isinstance(i, bool) for i in raw)


def _text_logprobs(raw: Any) -> int | None:
    if raw is not None and (isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw <= MOST_TEXT_LOGPROBS):
        raise HttpError(400, f"logprobs: received {raw!r}, expected an integer from 0 to {MOST_TEXT_LOGPROBS}")
    return raw
