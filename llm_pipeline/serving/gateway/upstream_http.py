"""A small HTTP/1.1 client for engines: pooled connections, answers read as they come, a deadline for every wait.

General clients cost the gateway more than the rest of a request together; this one does what an engine's port needs and no more:
no redirects, no compression, no proxies. Deadlines are looked at by one watcher, so waiting for a chunk sets no timer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import cast
from urllib.parse import urlsplit

import httptools

PAUSE_BYTES = 256 * 1024
"""Unread bytes of an answer from which the engine is made to wait."""
IDLE_SECONDS = 15.0
WATCH_SECONDS = 0.1
CONNECT_SECONDS = 5.0


class UpstreamLost(ConnectionError):
    """The connection ended before the answer did."""


class Connection(asyncio.Protocol):
    """One connection; it carries one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.transport: asyncio.Transport | None = None
        self.error: BaseException | None = None
        self.used = 0
        self.idle_since = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self.parts: list[bytes] = []
        """What has come of the body and was not taken yet."""
        self.on_body = self.parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def _reset(self) -> None:
        self._size, self._paused = 0, False
        self.deadline = float("inf")
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = False
        self._keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.complete and self.status and not self._parser.should_keep_alive() and error is None:
            self.complete = True  # an answer without a length ends with its connection
        self.fail(error or UpstreamLost("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abort(UpstreamLost(f"not HTTP: {error}"))
        self._size += len(data)
        if self._size > PAUSE_BYTES and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        """Nothing: a body is written at once, its size has been limited."""

    resume_writing = pause_writing

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        self._keep = self._parser.should_keep_alive()
        self.complete = True

    def send(self, head: bytes, body: bytes, deadline: float) -> None:
        assert self.transport is not None
        self._reset()
        self.used += 1
        self.deadline = deadline
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

    async def started(self) -> int:
        """The status, once the head of the answer is there."""
        while not self.status:
            await self.news()
        return self.status

    async def read(self) -> bytes:
        """What has come of the body since the last read, at least a byte; empty at its end."""
        while not self.parts and not self.complete:
            await self.news()
        return self.taken()

    def taken(self) -> bytes:
        """All of `parts`; the engine may send more."""
        data = b"".join(self.parts)
        self.parts.clear()
        self._size = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data

    def news(self) -> asyncio.Future[None]:
        """To be waited for until something has come, or the connection has failed."""
        if self.error is not None:
            raise self.error
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self._wake()

    def abort(self, error: BaseException) -> None:
        self.fail(error)
        if self.transport is not None:
            self.transport.abort()

    @property
    def reusable(self) -> bool:
        return self.complete and self._keep and self.error is None and not self.parts


class Origin:
    """The connections to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"upstream URL {url!r}: expected http://host:port or https://host")
        self._secure = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port or (443 if self._secure else 80)
        self.netloc, self.path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        self.idle: deque[Connection] = deque()
        self.active: set[Connection] = set()

    async def connection(self, *, fresh: bool = False) -> Connection:
        while self.idle and not fresh:
            found = self.idle.pop()
            if found.error is None:
                self.active.add(found)
                return found
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            _, made = await loop.create_connection(lambda: Connection(loop), self._host, self._port, ssl=self._secure)
        self.active.add(made)
        return made

    def release(self, connection: Connection) -> None:
        """Give a connection back; one whose answer was not read to its end is cut, which tells the engine to stop."""
        self.active.discard(connection)
        if connection.reusable:
            connection.idle_since, connection.deadline = asyncio.get_running_loop().time(), float("inf")
            self.idle.append(connection)
        else:
            connection.abort(UpstreamLost("the request was given up"))

    def watch(self, now: float) -> None:
        for connection in [c for c in self.active if c.deadline < now]:
            connection.abort(TimeoutError("no answer in time"))
        while self.idle and (self.idle[0].error is not None or self.idle[0].idle_since < now - IDLE_SECONDS):
            self.idle.popleft().abort(UpstreamLost("idle"))

    def close(self) -> None:
        for connection in (*self.idle, *self.active):
            connection.abort(UpstreamLost("the gateway ends"))
        self.idle.clear()


class Pool:
    """Connections to all engines, and the watcher of their deadlines."""

    def __init__(self) -> None:
        self._origins: dict[str, Origin] = {}
        self._watcher: asyncio.Task[None] | None = None

    def origin(self, url: str) -> Origin:
        found = self._origins.get(url)
        if found is None:
            found = self._origins[url] = Origin(url)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        return found

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for origin in list(self._origins.values()):
                origin.watch(loop.time())

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        for origin in self._origins.values():
            origin.close()
