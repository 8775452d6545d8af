"""One request and its answer inside the gateway: what was asked of which arm, what came back, and the record of both."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp

from llm_pipeline.records import Interaction
from llm_pipeline.serving.asgi import HttpError
from llm_pipeline.serving.guardrails import Policy, safe_length
from llm_pipeline.serving.protocol import ChatRequest
from llm_pipeline.serving.routing import Found, Route

TOKEN_SECONDS = 60.0
"""Longest wait for the engine's next token."""


@dataclass
class Exchange:
    """Gathers what the interaction log needs while a request goes through the gateway."""

    request: ChatRequest
    route: Route
    key: str
    received_at: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.perf_counter)
    answer: str = ""
    finish: str = "error"
    passages: Sequence[Found] = ()
    usage: dict[str, int] = field(default_factory=lambda: {"prompt_tokens": 0, "completion_tokens": 0})
    seconds: dict[str, float] = field(default_factory=dict)
    guardrails: list[str] = field(default_factory=list)

    @property
    def question(self) -> str:
        return self.request.messages[-1]["content"]

    def clock(self) -> float:
        return time.perf_counter() - self.started

    def extras(self) -> dict[str, Any]:
        """The fields of a reply that OpenAI's does not have."""
        passages = [{"id": p.id, "uri": p.uri, "score": round(float(p.score), 6)} for p in self.passages]
        return {"interaction_id": self.id, "release": self.route.release, "passages": passages}

    def record(self) -> Interaction:
        return Interaction(
            id=self.id,
            received_at=self.received_at,
            release=self.route.release,
            key=self.key,
            messages=self.request.messages,
            answer=self.answer,
            finish_reason=self.finish,
            passages=self.extras()["passages"],
            usage=self.usage,
            seconds={name: round(value, 6) for name, value in (self.seconds | {"total": self.clock()}).items()},
            guardrails=self.guardrails,
            user=self.request.user,
        )

    def upstream_body(self) -> dict[str, Any]:
        request = self.request
        body = {
            "messages": self.route.prompt.messages(request.messages, [p.text for p in self.passages]),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        return (
            body
            | ({"max_tokens": request.max_tokens} if request.max_tokens else {})
            | ({"stop": list(request.stop)} if request.stop else {})
        )

    async def events(self, http: aiohttp.ClientSession) -> AsyncGenerator[dict[str, Any], None]:
        """The engine's events; raises `HttpError`: its own refusals as they are, everything else 503.

        A pooled connection may have been closed by the other side just before its use, so one lost before its first event is
        tried again.
        """
        for last in (False, True):
            begun = False
            try:
                async with aclosing(self._attempt(http)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if begun or last or not isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
                    message = f"no engine answers for release {self.route.release}: {error!r}"
                    raise HttpError(503, message, code="engine_unavailable", retry_after=1) from error

    async def _attempt(self, http: aiohttp.ClientSession) -> AsyncGenerator[dict[str, Any], None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=TOKEN_SECONDS)
        async with http.post(f"{self.route.url}/v1/chat/completions", json=self.upstream_body(), timeout=timeout) as response:
            if response.status != 200:
                raise await _refusal(response)
            buffer = b""
            async for data in response.content.iter_any():
                *events, buffer = (buffer + data).split(b"\n\n")
                for event in events:
                    if event == b"data: [DONE]":
                        return
                    content = json.loads(event.removeprefix(b"data: "))
                    if "error" in content:
                        raise HttpError(503, content["error"]["message"], code="engine_failed", retry_after=1)
                    yield content
            raise HttpError(503, "the engine ended in the middle of an answer", code="engine_failed", retry_after=1)

    async def pieces(self, http: aiohttp.ClientSession) -> AsyncGenerator[str, None]:
        """The answer's text as it may be shown: what could still become personal data is held back until it did not."""
        text, shown = "", 0
        async with aclosing(self.events(http)) as events:
            async for event in events:
                choice = self._note(event)
                text += choice["delta"].get("content", "")
                if text and "first_token" not in self.seconds:
                    self.seconds["first_token"] = self.clock()
                if self._blocked(self.route.policy, text):
                    self.finish = "content_filter"
                    return
                until = len(text) if choice["finish_reason"] else safe_length(text)
                if until > shown:
                    piece, shown = text[shown:until], until
                    self.answer += piece
                    yield piece
                self.finish = choice["finish_reason"] or self.finish

    def _note(self, event: dict[str, Any]) -> dict[str, Any]:
        """Keep an event's token counts and return its choice (an empty one when it has none)."""
        if event.get("usage"):
            self.usage = {name: int(event["usage"][name]) for name in self.usage}
        return event["choices"][0] if event["choices"] else {"delta": {}, "finish_reason": None}

    def _blocked(self, policy: Policy, text: str) -> bool:
        self.guardrails += (found := policy.check_output(text))
        return bool(found)


async def _refusal(response: aiohttp.ClientResponse) -> HttpError:
    try:
        error = (await response.json())["error"]
    except (ValueError, KeyError, TypeError, aiohttp.ClientError):
        return HttpError(503, f"the engine answered {response.status}", retry_after=1)
    after = int(response.headers.get("retry-after", 1))
    if response.status in (400, 429):
        return HttpError(response.status, error["message"], code=error["code"], retry_after=after if response.status == 429 else None)
    return HttpError(503, error["message"], code="engine_failed", retry_after=after)


def now() -> str:
    return datetime.now(UTC).isoformat()


def event_time(value: str | None, *, allowed: bool) -> str:
    """When the request came in: the gateway's clock, or what a client that may simulate says."""
    if value is None:
        return now()
    if not allowed:
        raise HttpError(403, "x-event-time needs a key of scope simulate", code="scope_missing")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise HttpError(400, f"x-event-time: received {value[:60]!r}, expected ISO 8601") from None
    if moment.tzinfo is None:
        raise HttpError(400, f"x-event-time: received {value!r}, expected an offset from UTC")
    return moment.isoformat()
