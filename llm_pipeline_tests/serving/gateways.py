"""A gateway of its own in front of engines that say what a test tells them to, all in this process, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from llm_pipeline.config import build
from llm_pipeline.serving.gateway.app import Gateway
from llm_pipeline.serving.gateway.asgi import (
    App,
    Disconnected,
    HttpError,
    Receive,
    Scope,
    Send,
    lifespan,
    read_json,
    send_json,
    until_disconnect,
)
from llm_pipeline.serving.gateway.standalone import Alone, FileRoutes

CUT = object()
"""The connection is cut here."""


class FakeEngine:
    """Answers as `script(body)` says: text is a piece of the answer, a dict an event, an `HttpError` a refusal, an event a wait for it."""

    def __init__(self, script: Callable[[dict[str, Any]], Sequence[Any]] | Sequence[Any]) -> None:
        self.script = script if callable(script) else lambda _: script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.dropped = threading.Event()
        """Set when a client went away before its answer was complete."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send, _nothing, _nothing)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        body = await read_json(receive)
        self.bodies.append({"path": scope["path"], **body})
        try:
            await until_disconnect(receive, self._answer(body, list(self.script(body)), send))
        except HttpError as error:
            await send_json(send, error.status, error.body(), error.headers())
        except Disconnected:
            self.dropped.set()

    async def _answer(self, body: dict[str, Any], steps: list[Any], send: Send) -> None:
        if body.get("input") is not None:
            return await send_json(send, 200, steps[0])
        if steps and isinstance(steps[0], HttpError):
            raise steps[0]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        pieces = 0
        for step in steps:
            if step is CUT:
                raise _Cut
            if isinstance(step, threading.Event):
                while not step.is_set():
                    await asyncio.sleep(0.005)
                continue
            await _event(send, chunk(step) if isinstance(step, str) else step)
            pieces += 1
        if not any(isinstance(step, dict) and step["choices"][0]["finish_reason"] for step in steps):
            await _event(send, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await _event(send, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": pieces, "total_tokens": 7 + pieces}})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


class _Cut(Exception):
    """uvicorn closes the connection of an application that fails in the middle of an answer."""


async def _nothing() -> None:
    return None


async def _event(send: Send, event: Mapping[str, Any]) -> None:
    await send({"type": "http.response.body", "body": b"data: " + json.dumps(event).encode() + b"\n\n", "more_body": True})
    await asyncio.sleep(0)  # sending waits for nobody while there is room


def chunk(text: str, index: int = 0, finish: str | None = None, logprob: float | None = None) -> dict[str, Any]:
    logprobs = None if logprob is None else {"content": [{"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []}]}
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish, "logprobs": logprobs}]}


@contextmanager
def served(app: App, port: int = 0) -> Iterator[str]:
    """The address of an application that runs on a thread until the block ends."""
    config = uvicorn.Config(app, port=port, loop="uvloop", http="httptools", ws="none", log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass
class Place:
    """A running gateway."""

    url: str
    key: str
    folder: Path
    gateway: Gateway
    logged: Callable[[], list[dict[str, Any]]] = field(repr=False)


@contextmanager
def gateway(folder: Path, raw: Mapping[str, Any]) -> Iterator[Place]:
    """A gateway as a file of this content would make it."""
    settings = build(Alone, raw, "test")
    routes = FileRoutes(folder, settings)
    key = routes.ensure_key(folder / "key.json")
    app = Gateway(folder, settings, routes, by_name=True, poll_seconds=0.05)

    def logged() -> list[dict[str, Any]]:
        lines = [line for path in sorted((folder / "interactions").glob("*.jsonl")) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines]

    with served(app) as url:
        deadline = time.monotonic() + 20
        while not app.view.arms:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield Place(url, key, folder, app, logged)
