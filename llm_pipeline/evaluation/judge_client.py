"""Many requests to an OpenAI-compatible endpoint: few at a time, patient with a busy one, and none that was answered before.

Replies are kept by the hash of endpoint, model, sampling and messages, so an interrupted or repeated run pays only for what is new.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from llm_pipeline.errors import ConfigError, EndpointError
from llm_pipeline.evaluation.judge_replies import Reply, ReplyCache, Usage
from llm_pipeline.store import content_hash

Messages = Sequence[Mapping[str, str]]
Sleep = Callable[[float], Awaitable[None]]
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
HOPELESS = frozenset({401, 402, 403, 404, 405})
"""Answers that no other request would change: the run stops at once."""
MOST_BYTES = 4_000_000


@dataclass(frozen=True)
class Endpoint:
    """Where the judge is and how it is asked; prices are per million tokens."""

    url: str
    """Base URL, the part before `/chat/completions`."""
    model: str
    key_env: str = ""
    """Name of the environment variable that holds the API key; empty when none is needed."""
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 1_024})
    """Further fields of the request."""
    timeout: float = 120.0
    """Seconds for one attempt."""
    concurrency: int = 8
    attempts: int = 6
    back_off: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    most_wait: float = 120.0
    """Longest pause that an endpoint may ask for by Retry-After; a longer one fails the request."""
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or not self.model:
            raise ConfigError(f"judge endpoint: received url {self.url!r} and model {self.model!r}, expected http(s)://... and a name")
        if min(self.concurrency, self.attempts) < 1 or min(self.timeout, self.back_off, self.most_wait) <= 0:
            raise ConfigError(f"judge endpoint: received {self}, expected concurrency and attempts >= 1 and times above 0")

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def headers(self) -> dict[str, str]:
        if not self.key_env:
            return {}
        if not (key := os.environ.get(self.key_env)):
            raise ConfigError(f"judge endpoint: the environment variable {self.key_env!r} is not set; it should hold the API key")
        return {"Authorization": f"Bearer {key}"}


def ask_all(
    endpoint: Endpoint,
    conversations: Sequence[Messages],
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    sleep: Sleep = asyncio.sleep,
) -> tuple[list[Reply], Usage]:
    """A reply per conversation, in their order; equal conversations are asked once. A hopeless answer (401, 403, 404) is an error."""
    with closing(ReplyCache(cache)) as replies:
        return asyncio.run(_Asker(endpoint, replies, sleep).all(conversations, progress))


class _Asker:
    def __init__(self, endpoint: Endpoint, cache: ReplyCache, sleep: Sleep) -> None:
        self.endpoint, self.cache, self.sleep, self.usage = endpoint, cache, sleep, Usage()
        self._resume_at = 0.0
        """No request before this moment: a Retry-After to one holds for all."""

    async def all(self, conversations: Sequence[Messages], progress: Callable[[int, int], None] | None) -> tuple[list[Reply], Usage]:
        keys = [self._key(messages) for messages in conversations]
        waiting = list(dict(zip(keys, conversations, strict=True)).items())[::-1]
        found: dict[str, Reply] = {}

        async def work(session: aiohttp.ClientSession) -> None:
            while waiting:
                key, messages = waiting.pop()
                reply = self.cache.get(key) or await self._ask(session, messages)
                if not reply.error and not reply.cached:
                    self.cache.put(key, reply)
                self.usage.count(reply)
                found[key] = reply
                if progress:
                    progress(len(found), len(found) + len(waiting))

        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout)
        try:
            async with aiohttp.ClientSession(headers=self.endpoint.headers(), timeout=timeout) as session, asyncio.TaskGroup() as group:
                for _ in range(self.endpoint.concurrency):
                    group.create_task(work(session))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [found[key] for key in keys], self.usage

    def _key(self, messages: Messages) -> str:
        return content_hash(self.endpoint.url.rstrip("/"), self.endpoint.model, dict(self.endpoint.sampling), [dict(m) for m in messages])

    async def _ask(self, session: aiohttp.ClientSession, messages: Messages) -> Reply:
        """Up to `attempts` tries; what is wrong with the request itself (400, 413, 422) is not tried again."""
        error = ""
        for attempt in range(1, self.endpoint.attempts + 1):
            if (pause := self._resume_at - time.monotonic()) > 0:
                await self.sleep(pause)
            asked = None
            try:
                status, body, headers, seconds = await self._post(session, messages)
            except (TimeoutError, aiohttp.ClientError) as failure:
                error = f"{type(failure).__name__}: {failure}"[:300]
            else:
                if status == 200:
                    return _reply(body, seconds, attempt)
                error, final = self._refused(status, body)
                asked = retry_after(headers.get("Retry-After", ""))
                if final or (asked or 0) > self.endpoint.most_wait:
                    return Reply(error=error + ("" if final else f"; asked to wait {asked:.0f} s"), attempts=attempt)
            if asked is not None:
                self._resume_at = max(self._resume_at, time.monotonic() + asked)
            elif attempt < self.endpoint.attempts:
                await self.sleep(min(self.endpoint.back_off * 2 ** (attempt - 1), self.endpoint.most_wait))
        return Reply(error=f"{error} ({self.endpoint.attempts} attempts)", attempts=self.endpoint.attempts)

    def _refused(self, status: int, body: bytes) -> tuple[str, bool]:
        """What went wrong, and whether asking the same again is useless."""
        error = f"HTTP {status}: {_message(body)}"
        if status in HOPELESS:
            raise EndpointError(f"judge {self.endpoint.model} at {self.endpoint.url}: {error}")
        return error, status not in RETRIED

    async def _post(self, session: aiohttp.ClientSession, messages: Messages) -> tuple[int, bytes, Mapping[str, str], float]:
        body = {"model": self.endpoint.model, "messages": [dict(m) for m in messages], **self.endpoint.sampling}
        start = time.monotonic()
        async with session.post(f"{self.endpoint.url.rstrip('/')}/chat/completions", json=body, allow_redirects=False) as response:
            content = b"".join([part async for part in _limited(response.content)])
            return response.status, content, response.headers, time.monotonic() - start


async def _limited(stream: aiohttp.StreamReader) -> Any:
    size = 0
    async for part in stream.iter_any():
        size += len(part)
        if size > MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"the reply is longer than {MOST_BYTES:,} bytes")
        yield part


def _reply(body: bytes, seconds: float, attempts: int) -> Reply:
    try:
        content = json.loads(body)
        choice = content["choices"][0]
        text = str(choice["message"]["content"] or "").encode("utf-8", "replace").decode()
        usage = content.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(text, str(choice.get("finish_reason") or ""), "", False, round(seconds, 4), attempts, *tokens)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Reply(error=f"not a chat completion ({type(error).__name__}: {error}): {body[:120]!r}", attempts=attempts)


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found["error"]["message"] if isinstance(found["error"], dict) else found["error"])[:300]
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


def retry_after(header: str) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3): a number, or a date; None when it is neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
