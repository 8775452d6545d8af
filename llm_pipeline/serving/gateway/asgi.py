"""The few ASGI helpers that gateway and engine share: bodies with a limit, JSON and event-stream replies, noticed disconnects."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import orjson

from llm_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from llm_pipeline.serving.gateway.connection import Tls
    from llm_pipeline.serving.protection.limits import Protection

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 1 << 20


class HttpError(Exception):
    """An answer other than 200, in OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after = status, message, code, retry_after

    def body(self) -> dict[str, Any]:
        kind = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }
        return {"error": {"message": self.message, "type": kind.get(self.status, "server_error"), "param": None, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class Disconnected(Exception):
    """The client went away before its answer was complete."""


async def read_body(receive: Receive, limit: int = MAX_BODY) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise HttpError(413, f"body of more than {limit} bytes", code="body_too_large")
        if not message.get("more_body"):
            return b"".join(parts)


async def read_json(receive: Receive, limit: int = MAX_BODY) -> Any:
    body = await read_body(receive, limit)
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise HttpError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


async def send_bytes(
    send: Send, status: int, body: bytes, kind: str = "application/json", headers: Mapping[str, str] | None = None
) -> None:
    pairs = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in pairs.items()]})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
    await send_bytes(send, status, orjson.dumps(value), headers=headers)


class EventStream:
    """Server-sent events in OpenAI's form; headers go out with the first event, so an earlier failure can still be a status."""

    def __init__(self, send: Send, headers: Mapping[str, str] | None = None) -> None:
        self._send, self._headers, self.started = send, headers or {}, False

    async def event(self, value: Any) -> None:
        await self.write(b"data: " + orjson.dumps(value) + b"\n\n")

    async def done(self, before: bytes = b"") -> None:
        await self.write(before + b"data: [DONE]\n\n", more=False)

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send whole events as they are."""
        if not self.started:
            self.started = True
            pairs = {"content-type": "text/event-stream; charset=utf-8", **self._headers}
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": [(k.encode(), v.encode()) for k, v in pairs.items()]}
            )
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


async def until_disconnect(receive: Receive, work: Awaitable[None]) -> None:
    """Run `work`, cancelling it and raising `Disconnected` when the client goes away first."""
    task = asyncio.current_task()
    assert task is not None
    gone = False

    def left() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    watch = getattr(receive, "watch", None) or _Watcher(receive).watch
    watch(left)
    try:
        await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise Disconnected from None
        raise
    finally:
        watch(None)


class _Watcher:
    """Waits for a disconnect where the server offers no more than ASGI (`connection.Client` calls back)."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[None] | None = None

    def watch(self, gone: Callable[[], None] | None) -> None:
        if self._task is not None:
            self._task.remove_done_callback(self._left)
            self._task.cancel()
        if gone is None:
            return
        self._gone = gone
        self._task = asyncio.ensure_future(self._disconnect())
        self._task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._gone()

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def lifespan(receive: Receive, send: Send, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> None:
    """The ASGI lifespan protocol around two callbacks."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


def serve(
    app: App, port: int | None, *, fd: int | None = None, shared: bool = False, protection: Protection | None = None, tls: Tls | None = None
) -> None:
    """Run `app` on 127.0.0.1 with uvloop and httptools until SIGTERM or SIGINT.

    Several processes answer one port when each is given the same listening socket (`fd`), or opens the port `shared` (SO_REUSEPORT).
    """
    import uvicorn

    from llm_pipeline.serving.gateway.connection import notice_dead_peers, server_options
    from llm_pipeline.serving.protection.limits import Protection

    bounds = protection or Protection()
    config = uvicorn.Config(
        app, loop="uvloop", ws="none", access_log=False, log_level="warning", timeout_graceful_shutdown=3, lifespan="on",
        proxy_headers=False,
        **server_options(bounds, tls),
    )  # fmt: skip
    opened = listener(port, fd, shared=shared)
    notice_dead_peers(opened, bounds)
    uvicorn.Server(config).run(sockets=[opened])


def listener(port: int | None, fd: int | None = None, *, shared: bool = False) -> socket.socket:
    """The listening socket that was passed on as `fd`, else one on `port` of 127.0.0.1."""
    if fd is not None:
        return socket.socket(fileno=fd)
    if port is None:
        raise ConfigError("neither a port nor a listening socket was given")
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(("127.0.0.1", port))
    opened.listen(2048)
    opened.setblocking(False)
    opened.set_inheritable(True)
    return opened
