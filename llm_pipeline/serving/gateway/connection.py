"""What the HTTP server refuses before any application sees it: endless heads, slow bodies, clients that do not read; and TLS.

uvicorn's connection with bounds: a head or body that is not there in time ends in 408, a head too large in 431, one connection too
many in 503, and a client that takes nothing of its answer is dropped, which the application sees as a disconnect. A request that
arrives in one piece, as nearly all do, costs a comparison more.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.gateway.asgi import HttpError, Receive, Scope, Send
from llm_pipeline.serving.protection.limits import Protection

CODES = {400: "bad_request", 408: "request_timeout", 431: "headers_too_large", 503: "too_many_connections"}


@dataclass(frozen=True)
class Tls:
    """Files in PEM form."""

    certificate: Path
    """The server's certificate and those between it and its authority."""
    private_key: Path

    def __post_init__(self) -> None:
        for path in (self.certificate, self.private_key):
            if not Path(path).is_file():
                raise ConfigError(f"TLS: no file {path}")


def server_options(protection: Protection, tls: Tls | None = None) -> dict[str, Any]:
    """The arguments for `uvicorn.Config` that protect a server."""
    return {
        "http": partial(Connection, protection),
        "timeout_keep_alive": math.ceil(protection.keep_alive_seconds),
        "headers": secure_headers(protection, tls is not None),
        "server_header": False,
        "log_config": None,  # uvicorn's messages go where all others go
        **({"ssl_certfile": str(tls.certificate), "ssl_keyfile": str(tls.private_key)} if tls else {}),
    }


def secure_headers(protection: Protection, over_tls: bool) -> list[tuple[str, str]]:
    """Headers of every answer: nothing here is a page, nor to be kept by a cache or guessed at by a browser."""
    if not protection.secure_headers:
        return []
    headers = [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
    ]
    if over_tls and protection.hsts_seconds:
        headers.append(("strict-transport-security", f"max-age={protection.hsts_seconds}; includeSubDomains"))
    return headers


def notice_dead_peers(listener: socket.socket, protection: Protection) -> None:
    """Have the kernel end connections whose other side is gone without a word; connections inherit it from the listening socket."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": int(protection.send_seconds * 1000)}
    for name, value in options.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, protection: Protection, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds = protection
        self._arriving = True
        """A request's head or body is not complete; a fresh connection owes a head too."""
        self._in_head = True
        self._head_bytes = 0
        self._arrival: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str] | None = None
        self._idle_since: float | None = None
        self.gone: Callable[[], None] | None = None
        """Called when the client leaves before its answer is complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            return self._refuse(503, "too many connections")
        self._arrival = self.loop.call_later(self._bounds.header_seconds, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        for timer in (self._stuck, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self.gone is not None:
            self.gone()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        def direct(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            client = Client(self, cycle)
            return app(scope, client, client.send)  # type: ignore[no-any-return]

        super()._start_asgi_task(cycle, direct)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._head_bytes += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > self._bounds.max_header_bytes:
            return self._refuse(431, f"request head of more than {self._bounds.max_header_bytes} bytes")
        if self._arriving and self._arrival is None:
            seconds = self._bounds.header_seconds if self._in_head else self._bounds.body_seconds
            self._arrival = self.loop.call_later(seconds, self._late)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_bytes > self._bounds.max_header_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._bounds.max_header_bytes:
                self._refusal = (431, f"request head of {size} bytes, at most {self._bounds.max_header_bytes} are read")
                raise ConnectionAbortedError(self._refusal[1])
        self._head_bytes = 0
        self._arrived()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arriving, self._in_head = False, True
        self._arrived()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self._bounds.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """As uvicorn's, but one timer serves all pauses between a connection's requests: it looks how long the last one lasts."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._rest(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _rest(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0.001:
            self._rest(left)
        elif not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        status, words = self._refusal or (400, msg)
        self._refuse(status, words)

    def _arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _late(self) -> None:
        self._arrival = None
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
        elif not self._head_bytes if self._in_head else self.cycle.response_complete:
            self.transport.close()  # nothing was asked, or all is said
        else:
            part = "head" if self._in_head else "body"
            seconds = self._bounds.header_seconds if self._in_head else self._bounds.body_seconds
            self._refuse(408, f"the request's {part} was not complete after {seconds:g} s")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, and close."""
        self._refusal = (status, message)
        if self.transport.is_closing():
            return
        body = json.dumps(HttpError(status, message, code=CODES[status]).body()).encode()
        extra = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        self.transport.write(_head(status, [*self.server_state.default_headers, *extra]) + body)
        self.transport.close()


class Client:
    """ASGI's receive and send of one request, with fewer steps than uvicorn's: the head goes out together with the first of the body,
    and who waits for a disconnect is called instead of having a task wait for it."""

    __slots__ = ("_chunked", "_connection", "_cycle", "_head", "_left")

    def __init__(self, connection: Connection, cycle: RequestResponseCycle) -> None:
        self._connection, self._cycle = connection, cycle
        self._head, self._chunked, self._left = b"", False, 0

    async def __call__(self) -> Any:
        return await self._cycle.receive()

    def watch(self, gone: Callable[[], None] | None) -> None:
        """Have `gone` called when the client leaves; None: no more."""
        self._connection.gone = gone
        if gone is not None and self._cycle.disconnected:
            gone()

    async def send(self, message: Any) -> None:
        cycle = self._cycle
        if cycle.scope["method"] == "HEAD" or (not self._head and message["type"] != "http.response.start"):
            return await cycle.send(message)
        if not self._head:
            self._begin(message["status"], message.get("headers", ()))
            return
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if cycle.disconnected:
            return
        self._write(message.get("body", b""), more=message.get("more_body", False))

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        cycle = self._cycle
        lengths = [value for name, value in headers if name == b"content-length"]
        self._chunked, self._left = not lengths, int(lengths[0]) if lengths else 0
        more = [(b"transfer-encoding", b"chunked")] if self._chunked else []
        if not cycle.keep_alive:
            more.append((b"connection", b"close"))
        pairs = [*cycle.default_headers, *headers, *more]
        self._head = _head(status, pairs)
        if self._head.count(b"\n") != len(pairs) + 2 or b"\0" in self._head:
            raise RuntimeError("a header holds a line break")

    def _write(self, body: bytes, *, more: bool) -> None:
        cycle = self._cycle
        if cycle.response_complete or (not self._chunked and (len(body) > self._left or (not more and len(body) < self._left))):
            raise RuntimeError("the body is not of the length that was said")
        self._left -= 0 if self._chunked else len(body)
        data = body
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            data = data if more else data + b"0\r\n\r\n"
        if not cycle.response_started:
            cycle.response_started = True
            cycle.waiting_for_100_continue = False
            data = self._head + data
        cycle.transport.write(data)
        if not more:
            self._end()

    def _end(self) -> None:
        cycle = self._cycle
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()


def _head(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join([STATUS_LINE[status], *(name + b": " + value + b"\r\n" for name, value in headers), b"\r\n"])
