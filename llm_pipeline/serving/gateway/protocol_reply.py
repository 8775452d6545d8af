"""Replies in OpenAI's shapes, written as bytes: what repeats in every chunk of a stream is encoded once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Ended:
    """One of the answers, whole."""

    index: int
    text: str
    finish: str
    tool_calls: Sequence[Mapping[str, Any]] = ()
    logprobs: Mapping[str, Any] | None = None


@dataclass
class ChatReply:
    """A chat completion, streamed or whole."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    _kinds = ("chat.completion", "chat.completion.chunk")

    def __post_init__(self) -> None:
        head = {"id": self.id, "object": self._kinds[1], "created": self.created, "model": self.model}
        self._head = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        self._started: set[int] = set()

    def piece(self, index: int, text: str) -> bytes:
        """A chunk of text; the first one of an answer names the role."""
        if index not in self._started:
            return self._chunk(index, b'{%b"content":%b}' % (self._role(index), orjson.dumps(text)))
        return b'%b{"index":%d,"delta":{"content":%b},"finish_reason":null,"logprobs":null}]}\n\n' % (self._head, index, orjson.dumps(text))

    def tool_calls(self, index: int, calls: Sequence[Mapping[str, Any]]) -> bytes:
        numbered = [{"index": i, **call} for i, call in enumerate(calls)]
        return self._chunk(index, b'{%b"tool_calls":%b}' % (self._role(index), orjson.dumps(numbered)))

    def end(self, ended: Ended, extras: Mapping[str, Any]) -> bytes:
        delta = b"{%b}" % self._role(ended.index).rstrip(b",")
        finish = orjson.dumps(ended.finish)
        return self._chunk(ended.index, delta, finish, orjson.dumps(ended.logprobs), orjson.dumps(extras)[1:-1])

    def usage(self, usage: Mapping[str, int]) -> bytes:
        return self._head + b'],"usage":%b}\n\n' % orjson.dumps(total(usage))

    def whole(self, answers: Sequence[Ended], usage: Mapping[str, int], extras: Mapping[str, Any]) -> dict[str, Any]:
        head = {"id": self.id, "object": self._kinds[0], "created": self.created, "model": self.model}
        return {**head, "choices": [self._choice(answer) for answer in answers], "usage": total(usage), **extras}

    def _choice(self, answer: Ended) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.tool_calls:
            message |= {"content": answer.text or None, "tool_calls": list(answer.tool_calls)}
        return {"index": answer.index, "message": message, "finish_reason": answer.finish, "logprobs": answer.logprobs}

    def _role(self, index: int) -> bytes:
        if index in self._started:
            return b""
        self._started.add(index)
        return b'"role":"assistant",'

    def _chunk(self, index: int, delta: bytes, finish: bytes = b"null", logprobs: bytes = b"null", extras: bytes = b"") -> bytes:
        more = b"," + extras if extras else b""
        return self._head + b'{"index":%d,"delta":%b,"finish_reason":%b,"logprobs":%b}]%b}\n\n' % (index, delta, finish, logprobs, more)


class TextReply(ChatReply):
    """A completion of the older kind (/v1/completions)."""

    _kinds = ("text_completion", "text_completion")

    def piece(self, index: int, text: str) -> bytes:
        return self._text(index, text, b"null", b"")

    def end(self, ended: Ended, extras: Mapping[str, Any]) -> bytes:
        return self._text(ended.index, "", orjson.dumps(ended.finish), b"," + orjson.dumps(extras)[1:-1])

    def _text(self, index: int, text: str, finish: bytes, more: bytes) -> bytes:
        content = orjson.dumps(text)
        return self._head + b'{"index":%d,"text":%b,"finish_reason":%b,"logprobs":null}]%b}\n\n' % (index, content, finish, more)

    def _choice(self, answer: Ended) -> dict[str, Any]:
        return {"index": answer.index, "text": answer.text, "finish_reason": answer.finish, "logprobs": None}


def total(usage: Mapping[str, int]) -> dict[str, int]:
    return {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}
