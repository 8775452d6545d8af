"""Our worker's answers in OpenAI's two shapes, chat and text completion, whole or as a stream's events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_pipeline.serving.engine.generation import Tokens

NONE = Tokens((), (), (), None)


@dataclass
class Answer:
    """One choice as it grows."""

    index: int
    text: str = ""
    finish: str = "length"
    tokens: Tokens = NONE
    shown: int = 0
    """Tokens of which the log-probabilities may be shown: those of the shown text."""
    sent: int = 0


class Reply:
    """Builds the events or the whole reply of one request; `text_of` gives a token's text."""

    def __init__(self, kind: Literal["chat", "text"], model: str, text_of: Callable[[int], str], *, logprobs: bool) -> None:
        self._kind, self._text_of, self._logprobs = kind, text_of, logprobs
        name = {"chat": "chat.completion", "text": "text_completion"}[kind]
        prefix = {"chat": "chatcmpl", "text": "cmpl"}[kind]
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": name, "created": int(time.time()), "model": model}
        self._event_head = {**self._head, "object": "chat.completion.chunk" if kind == "chat" else name}

    def event(self, answer: Answer, piece: str, finish: str | None = None) -> dict[str, Any]:
        """The next event of a choice, with the log-probabilities of the tokens shown since the last one."""
        detail = self._detail(answer, answer.sent, answer.shown)
        first, answer.sent = answer.text == piece and bool(piece), answer.shown
        if self._kind == "text":
            choice: dict[str, Any] = {"index": answer.index, "text": piece, "finish_reason": finish, "logprobs": detail}
        else:
            delta = {"role": "assistant", "content": piece} if first else {"content": piece} if piece else {}
            choice = {"index": answer.index, "delta": delta, "finish_reason": finish, "logprobs": detail}
        return {**self._event_head, "choices": [choice]}

    def usage_event(self, prompt: int, answer: int) -> dict[str, Any]:
        return {**self._event_head, "choices": [], "usage": _usage(prompt, answer)}

    def whole(self, answers: Sequence[Answer], prompt: int) -> dict[str, Any]:
        choices = []
        for answer in answers:
            what = {"text": answer.text} if self._kind == "text" else {"message": _message(answer.text)}
            detail = self._detail(answer, 0, answer.shown)
            choices.append({"index": answer.index, **what, "finish_reason": answer.finish, "logprobs": detail})
        return {**self._head, "choices": choices, "usage": _usage(prompt, sum(len(a.tokens.ids) for a in answers))}

    def _detail(self, answer: Answer, start: int, end: int) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tokens = answer.tokens
        noted = [
            (tokens.ids[i], tokens.logprobs[i], tokens.top[i] if i < len(tokens.top) else ())
            for i in range(start, min(end, len(tokens.logprobs)))
        ]
        return self._chat_detail(noted) if self._kind == "chat" else self._text_detail(noted)

    def _chat_detail(self, noted: Sequence[tuple[int, float, Any]]) -> dict[str, Any]:
        """OpenAI's shape; `token_id` besides, since a byte-level token need not be text of its own."""
        entries = [
            {**self._entry(token, logprob), "top_logprobs": [self._entry(i, value) for i, value in top]} for token, logprob, top in noted
        ]
        return {"content": entries, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text_of(token)
        return {"token": text, "token_id": token, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    def _text_detail(self, noted: Sequence[tuple[int, float, Any]]) -> dict[str, Any]:
        texts = [self._text_of(token) for token, _, _ in noted]
        return {
            "tokens": texts,
            "token_logprobs": [logprob for _, logprob, _ in noted],
            "top_logprobs": [{self._text_of(i): value for i, value in top} for _, _, top in noted],
            "text_offset": list(_offsets(texts)),
        }


def _offsets(texts: Sequence[str]) -> Iterator[int]:
    at = 0
    for text in texts:
        yield at
        at += len(text)


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "refusal": None}


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
