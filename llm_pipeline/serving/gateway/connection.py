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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.gateway.asgi import HttpError
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connections:
            return self._refuse(503, "too many connections")
        self._arrival = self.loop.call_later(self._bounds.header_seconds, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        if self._stuck is not None:
            self._stuck.cancel()
        super().connection_lost(exc)

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


def _head(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join([STATUS_LINE[status], *(name + b": " + value + b"\r\n" for name, value in headers), b"\r\n"])
