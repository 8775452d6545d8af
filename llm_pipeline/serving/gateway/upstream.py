"""One OpenAI-compatible server behind the gateway: its settings, its circuit breaker, and a request to it as events.

A request is always streamed, so that giving it up reaches the engine, whatever the client asked for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import orjson

from llm_pipeline.errors import ConfigError, near
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.protocol import MORE_FIELDS
from llm_pipeline.serving.gateway.upstream_http import Connection, Origin, Pool

LONGEST_ERROR = 64 * 1024
LONGEST_LINE = 8 << 20
REFUSALS = (400, 413, 422)
"""Answers that are about the request: no other server is asked."""


@dataclass(frozen=True)
class Prices:
    """Per 1,000 tokens, and per second of the server, in any one currency."""

    prompt: float = 0.0
    completion: float = 0.0
    second: float = 0.0
    """What the machine costs while it works (CPUs or GPUs); requests that it works on at the same time share the second.

    Each gateway process knows only its own requests: a second in which the server works for two of them is counted by both.
    """

    def of(self, usage: Mapping[str, int], seconds: float = 0.0) -> float:
        return (self.prompt * usage["prompt_tokens"] + self.completion * usage["completion_tokens"]) / 1000 + self.second * seconds


@dataclass(frozen=True)
class Upstream:
    """A server and how long it is waited for. The key stays in the environment: only its variable is named."""

    url: str
    model: str | None = None
    """Name of the model in requests to it."""
    key_variable: str | None = None
    prices: Prices = field(default_factory=Prices)
    first_token_seconds: float = 60.0
    token_seconds: float = 60.0
    """Longest wait between two pieces of an answer."""
    total_seconds: float = 600.0
    failures: int = 5
    """Failures in a row after which it is left alone."""
    open_seconds: float = 10.0
    """For so long; then one request tries it."""
    unsupported: tuple[str, ...] = ()
    """Fields that it would ignore, so that they are refused instead."""
    omit: tuple[str, ...] = ()
    """Fields that it would refuse, so that they are left out (stream_options, temperature, top_p)."""
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    completions: bool = False
    """Whether it has /v1/completions; else a text to complete goes to it as a user's turn."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"upstream: url: received {self.url!r}, expected http(s)://host[:port]")
        for name in self.unsupported:
            if name not in (*MORE_FIELDS, "logprobs", "stop"):
                raise ConfigError(f"upstream {self.url}: unsupported: {name!r}{near(name, MORE_FIELDS)}")
        if min(self.first_token_seconds, self.token_seconds, self.total_seconds, self.open_seconds) <= 0 or self.failures < 1:
            raise ConfigError(f"upstream {self.url}: times must be positive, failures at least 1")

    @property
    def base(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    def key(self) -> str | None:
        if self.key_variable is None:
            return None
        if self.key_variable not in os.environ:
            raise ConfigError(f"upstream {self.url}: the environment variable {self.key_variable} is not set")
        return os.environ[self.key_variable]


class UpstreamError(HttpError):
    """The server did not do its work; another one may."""


@dataclass
class Breaker:
    """Lets requests through until `failures` in a row failed, then none for `seconds`, then one that decides."""

    failures: int
    seconds: float
    failed: int = 0
    closed_at: float = 0.0
    """When the next request may try."""

    def allows(self, now: float) -> bool:
        if self.failed < self.failures:
            return True
        if now < self.closed_at:
            return False
        self.closed_at = now + self.seconds  # this request is the probe; no other until it is back
        return True

    def note(self, *, good: bool, now: float) -> None:
        self.failed = 0 if good else self.failed + 1
        if self.failed >= self.failures:
            self.closed_at = now + self.seconds


@dataclass
class Target:
    """An upstream with what is known of it while the gateway runs."""

    name: str
    upstream: Upstream
    origin: Origin
    breaker: Breaker
    in_flight: int = 0
    heads: dict[str, bytes] = field(default_factory=dict)
    _meter: float = 0.0
    _read_at: float = 0.0

    def count(self, change: int, now: float) -> float:
        """A request begins or ends; what the meter gained between the two is that request's share of the server's seconds."""
        if self.in_flight:
            self._meter += (now - self._read_at) / self.in_flight
        self.in_flight, self._read_at = self.in_flight + change, now
        return self._meter

    def head(self, path: str, request_id: str, trace: str) -> bytes:
        """The fixed part of a request's head is made once; the key is read from the environment then."""
        known = self.heads.get(path)
        if known is None:
            lines = [f"POST {self.origin.path}{path} HTTP/1.1", f"host: {self.origin.netloc}", "content-type: application/json"]
            lines += ["accept: text/event-stream, application/json", "accept-encoding: identity"]
            lines += [f"authorization: Bearer {key}"] if (key := self.upstream.key()) else []
            known = self.heads[path] = ("\r\n".join(lines) + "\r\nx-request-id: ").encode("latin-1")
        return known + f"{request_id}\r\ntraceparent: {trace}\r\n".encode()


class Upstreams:
    """All targets of a gateway process and their connections."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._targets: dict[tuple[str, Upstream], Target] = {}

    def target(self, name: str, upstream: Upstream) -> Target:
        found = self._targets.get((name, upstream))
        if found is None:
            breaker = Breaker(upstream.failures, upstream.open_seconds)
            found = self._targets[name, upstream] = Target(name, upstream, self._pool.origin(upstream.base), breaker)
        return found

    def call(self, target: Target, path: str, body: Mapping[str, Any], request_id: str, trace: str) -> Call:
        return Call(target, target.head(path, request_id, trace), orjson.dumps(body))

    async def close(self) -> None:
        await self._pool.close()


class Call:
    """One streamed request: `async with call`, then `events()` until None. What fails is an `UpstreamError` or a refusal."""

    def __init__(self, target: Target, head: bytes, body: bytes) -> None:
        self._target, self._head, self._body = target, head, body
        self._connection: Connection | None = None
        self._rest = b""
        self._done = False
        self._later = False
        self.seconds = 0.0
        """The server's seconds that it took, once it is over."""

    async def __aenter__(self) -> Call:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._latest = self._began + self._target.upstream.total_seconds
        self._metered = self._target.count(1, self._began)
        try:
            status = await self._open()
            if status != 200:
                raise await self._refusal(status)
        except BaseException as error:
            self._leave(error)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave(error)

    async def _open(self) -> int:
        """Send the request; a pooled connection that the server had just closed is no failure of the server."""
        upstream = self._target.upstream
        for fresh in (False, True):
            try:
                self._connection = connection = await self._target.origin.connection(fresh=fresh)
                pooled = connection.used > 0
                connection.send(self._head, self._body, self._began + min(upstream.first_token_seconds, upstream.total_seconds))
                return await connection.started()
            except (OSError, TimeoutError) as error:
                stale = self._connection is not None and pooled and isinstance(error, ConnectionError) and not fresh
                self._release()
                if not stale:
                    raise self._failure(error) from error
        raise AssertionError("unreachable")

    async def events(self) -> list[dict[str, Any]] | None:
        """The events that have come since the last call, at least one; None at the end."""
        connection = self._connection
        assert connection is not None
        found: list[dict[str, Any]] = []
        if self._later:
            connection.deadline = min(self._loop.time() + self._target.upstream.token_seconds, self._latest)
        try:
            while not found and not self._done:
                if connection.parts:
                    self._parse(connection.taken(), found)
                elif connection.complete:
                    raise UpstreamError(503, "the engine ended in the middle of an answer", code="engine_failed", retry_after=1)
                else:
                    await connection.news()
        except (OSError, TimeoutError) as error:
            raise self._failure(error) from error
        self._later, connection.deadline = True, self._latest  # what the client takes its time with is not the engine's
        return found or None

    def _parse(self, data: bytes, found: list[dict[str, Any]]) -> None:
        *lines, self._rest = (self._rest + data if self._rest else data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise UpstreamError(503, f"the engine sent an event of more than {LONGEST_LINE} bytes", code="engine_failed")
        for line in filter(None, lines):  # blank lines stand between events
            if line[:5] != b"data:":
                continue  # comments, names of events
            if b"[DONE]" in line[-8:] and line[5:].strip() == b"[DONE]":
                self._done = True
                return
            try:
                event = orjson.loads(line[5:])
            except ValueError:
                raise UpstreamError(503, "the engine sent an event that is not JSON", code="engine_failed", retry_after=1) from None
            if "error" in event:
                raise _told(event["error"])
            found.append(event)

    async def whole(self) -> Any:
        """The JSON of an answer that is not streamed."""
        connection = self._connection
        assert connection is not None
        body = b""
        try:
            while data := await connection.read():
                body += data
                if len(body) > LONGEST_LINE:
                    break
            return orjson.loads(body)
        except (OSError, TimeoutError) as error:
            raise self._failure(error) from error
        except ValueError:
            raise UpstreamError(503, "the engine's answer is not JSON", code="engine_failed", retry_after=1) from None

    async def finish(self) -> None:
        """Read what follows [DONE], so that the connection can be used again."""
        connection = self._connection
        assert connection is not None
        connection.deadline = self._loop.time() + 1.0
        with suppress(OSError, TimeoutError):
            while not connection.complete and await connection.read():
                pass

    async def _refusal(self, status: int) -> HttpError:
        connection = self._connection
        assert connection is not None
        body = b""
        try:
            while not connection.complete or not body:
                data = await connection.read()
                body += data
                if not data or len(body) > LONGEST_ERROR:
                    break
        except (OSError, TimeoutError):
            body = b""
        after = connection.headers.get(b"retry-after", b"1")
        return _refusal(status, body, int(after) if after.isdigit() else 1)

    def _failure(self, error: BaseException) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return UpstreamError(504, f"{self._target.name}: {error or 'no connection in time'}", code="engine_timeout")
        return UpstreamError(503, f"no engine answers: {self._target.name}: {error!r}", code="engine_unavailable", retry_after=1)

    def _leave(self, error: BaseException | None) -> None:
        self.seconds = self._target.count(-1, self._loop.time()) - self._metered
        if isinstance(error, UpstreamError):
            if error.status not in (404, 429):  # busy is not broken, nor is who lacks an adapter
                self._target.breaker.note(good=False, now=self._loop.time())
        elif error is None or isinstance(error, HttpError):
            self._target.breaker.note(good=True, now=self._loop.time())
        self._release()

    def _release(self) -> None:
        if self._connection is not None:
            self._target.origin.release(self._connection)
            self._connection = None


def _told(error: Any) -> UpstreamError:
    message = error.get("message") if isinstance(error, Mapping) else error
    return UpstreamError(503, str(message)[:1000], code="engine_failed", retry_after=1)


def _refusal(status: int, body: bytes, retry_after: int) -> HttpError:
    """A server's error in our words: refusals of the request as they are, everything else as a failure of the server."""
    try:
        error = orjson.loads(body)["error"]
        message, code = str(error["message"])[:1000], error.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = f"the engine answered {status}", None
    if status in REFUSALS:
        return HttpError(400, message, code=code if isinstance(code, str) else None)
    if status == 404:
        return UpstreamError(404, message, code=code if isinstance(code, str) else "model_not_found")
    if status == 429:
        return UpstreamError(429, message, code="engine_busy", retry_after=retry_after)
    return UpstreamError(503, message, code="engine_failed", retry_after=retry_after)
