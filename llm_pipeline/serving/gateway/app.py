"""The gateway: the only port that clients see. Keys, guardrails, retrieval, a sticky arm, and a durable record of every answer.

python -m llm_pipeline.serving.gateway.app --folder HOME/endpoint --port 8088
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy.exc import SQLAlchemyError

from llm_pipeline.serving.cache.answers import AnswerCache
from llm_pipeline.serving.gateway import openapi
from llm_pipeline.serving.gateway.answering import Answering
from llm_pipeline.serving.gateway.arms import Arm, Arms
from llm_pipeline.serving.gateway.asgi import (
    Disconnected,
    HttpError,
    Receive,
    Scope,
    Send,
    lifespan,
    read_json,
    send_bytes,
    send_json,
    serve,
    until_disconnect,
)
from llm_pipeline.serving.gateway.connection import Tls
from llm_pipeline.serving.gateway.embedding import Embeddings
from llm_pipeline.serving.gateway.exchange import Exchange, event_time, now
from llm_pipeline.serving.gateway.mirror import VARIANT, Mirror
from llm_pipeline.serving.gateway.protocol import GATEWAY_FIELDS, ChatRequest, models, parse_chat
from llm_pipeline.serving.gateway.protocol_more import parse_completion, parse_embedding
from llm_pipeline.serving.gateway.protocol_reply import ChatReply, TextReply
from llm_pipeline.serving.gateway.settings import GatewaySettings, load_settings
from llm_pipeline.serving.observability.feedback import parse_feedback
from llm_pipeline.serving.observability.interactions import SegmentWriter
from llm_pipeline.serving.observability.logs import start_logging
from llm_pipeline.serving.observability.metrics import Metrics
from llm_pipeline.serving.observability.telemetry import Telemetry, trace_of
from llm_pipeline.serving.protection.keys import Key, key_hash
from llm_pipeline.serving.protection.limits import Limiter
from llm_pipeline.serving.supervision.processes import die_with
from llm_pipeline.serving.traffic.database import open_database
from llm_pipeline.serving.traffic.routing import Router, Snapshot, choose
from llm_pipeline.serving.traffic.state import State

log = logging.getLogger(__name__)
POLL_SECONDS = 0.3
MODEL = "default"
Headers = dict[bytes, bytes]


class Routes(Protocol):
    """Where snapshots come from: `routing.Router`, or the file of a gateway that runs alone. Both methods may block."""

    def refresh(self) -> Snapshot: ...
    def report(self, snapshot: Snapshot) -> None: ...


class View(NamedTuple):
    """What requests meet: the desired state and the releases that are ready to serve it, replaced together."""

    snapshot: Snapshot
    arms: Mapping[str, Arm]


class Gateway:
    """ASGI application over a folder (its database and logs)."""

    def __init__(
        self,
        folder: Path,
        settings: GatewaySettings | None = None,
        routes: Routes | None = None,
        *,
        by_name: bool = False,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """`by_name`: the client's model name says which route answers; else it is always "default", and traffic decides."""
        self._folder, self._by_name, self._poll_seconds = folder, by_name, poll_seconds
        self._settings = settings or load_settings(folder)
        self._state = State(folder)
        self._routes, self._arms = routes or Router(self._state), Arms()
        self.view = View(Snapshot(), {})
        self.metrics = Metrics(folder / "metrics")
        self._paths: dict[str, Callable[[Headers, Receive, Send], Awaitable[None]]] = {
            "POST /v1/chat/completions": self._chat,
            "POST /v1/completions": self._complete,
            "POST /v1/embeddings": self._embed,
            "POST /v1/feedback": self._feedback,
            "GET /v1/models": self._models,
            "GET /healthz": self._healthz,
            "GET /readyz": self._readyz,
            "GET /metrics": self._metrics,
            "GET /openapi.json": self._openapi,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send, self._start, self._stop)
        route = f"{scope['method']} {scope['path']}"
        try:
            handler = self._paths.get(route)
            if handler is None:
                return await self._unknown(scope["path"], send)
            await handler(dict(scope["headers"]), receive, send)
        except HttpError as error:
            self.metrics.refused(error.status, error.code)
            await send_json(send, error.status, error.body(), error.headers())
        except Disconnected:
            return
        except Exception:
            log.exception("%s failed", route)
            await send_json(send, 500, HttpError(500, "internal error").body())

    async def _unknown(self, path: str, send: Send) -> None:
        methods = [place.partition(" ")[0] for place in self._paths if place.partition(" ")[2] == path]
        error = HttpError(405, f"{path} takes {', '.join(methods)}") if methods else HttpError(404, f"no such path: {path[:200]}")
        await send_json(send, error.status, error.body(), {"allow": ", ".join(methods)} if methods else None)

    async def _start(self) -> None:
        self._telemetry = Telemetry(self._settings.telemetry)
        self._log = SegmentWriter(self._folder / "interactions", self._settings.interactions, also=self._telemetry.record_all)
        self._feedback_log = SegmentWriter(self._folder / "feedback", self._settings.interactions)
        self._limiter = Limiter(open_database(self._folder))
        self._cache = AnswerCache(self._settings.cache_bytes)
        self._answering = Answering(self._settings, self._log, self._limiter, self._cache, self.metrics)
        self.metrics.watch("llm_cache", "Answers looked for and kept in memory", "outcome", lambda: dict(self._cache.counts))
        self.metrics.watch("llm_log", "Rows for the interaction log", "outcome", lambda: dict(self._log.counts))
        self.metrics.watch("llm_spans", "Interactions sent to collectors", "outcome", lambda: dict(self._telemetry.counts))
        self._embeddings = Embeddings(self._settings, self._answering.engines, self._settings.embedding_upstream)
        self._mirror = Mirror()
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._look)  # so that the first request meets keys and routes
        _give_back()
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again with every few hundred requests
        gc.set_threshold(20_000, 20, 50)
        self._ended = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="router", daemon=True)
        self._poller.start()

    async def _stop(self) -> None:
        self._ended.set()
        await asyncio.to_thread(self._poller.join)
        await self._mirror.close()
        self._embeddings.close()
        await self._answering.close()
        await self._limiter.close()
        self._cache.close()
        for part in (self._log, self._feedback_log, self._telemetry):
            await asyncio.to_thread(part.close)

    def _poll(self) -> None:
        """On a thread of its own, so that a full event loop delays no switch: a request reads `view` once, whoever put it there."""
        while not self._ended.wait(self._poll_seconds):
            self._look()

    def _look(self) -> None:
        """Take over the desired state as it is now, and say so."""
        try:
            snapshot = self._routes.refresh()
            known, self.view = self.view, View(snapshot, dict(self._arms.of(snapshot.routes)))
            self._loop.call_soon_threadsafe(self.metrics.traffic, snapshot.weights)
            if known.arms.keys() != self.view.arms.keys():
                self._loop.call_soon_threadsafe(self._cache.keep, self.view.arms)
            self._routes.report(snapshot)
            with suppress(SQLAlchemyError):  # when a key was last used is worth no alarm
                self._state.keys.write_seen()
            self.metrics.share()
        except Exception:
            log.exception("the desired state cannot be read; the last one stays in force")

    def _authenticate(self, headers: Headers, *scopes: str) -> Key:
        """The request's key, which must have one of `scopes`."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise HttpError(401, "an API key is needed: Authorization: Bearer <key>", code="missing_api_key")
        known = self.view.snapshot.keys.get(key_hash(key.strip().decode("latin-1")))
        if known is None:
            raise HttpError(401, "the API key is not valid", code="invalid_api_key")
        if known.scopes.isdisjoint(scopes):
            raise HttpError(403, f"the API key lacks the scope {' or '.join(scopes)}", code="scope_missing")
        self._state.keys.seen(known.id)
        return known

    async def _chat(self, headers: Headers, receive: Receive, send: Send) -> None:
        key = self._authenticate(headers, "chat")
        request = parse_chat(await read_json(receive, self._settings.protection.max_body_bytes), GATEWAY_FIELDS)
        await self._answer(request, key, headers, receive, send, ChatReply)

    async def _complete(self, headers: Headers, receive: Receive, send: Send) -> None:
        key = self._authenticate(headers, "chat")
        request = parse_completion(await read_json(receive, self._settings.protection.max_body_bytes))
        await self._answer(request, key, headers, receive, send, TextReply)

    async def _answer(self, request: ChatRequest, key: Key, headers: Headers, receive: Receive, send: Send, form: type[ChatReply]) -> None:
        view = self.view
        exchange = self._exchange(view, request, key, headers)
        await until_disconnect(receive, self._answering.answer(exchange, form(exchange.id, request.model), send))
        shadow = view.snapshot.shadow
        if shadow and shadow != exchange.variant and (arm := view.arms.get(shadow)):
            copy = Exchange(request, arm, key, exchange.received_at, trace_of(exchange.trace.header), VARIANT)
            self._mirror.offer(partial(self._answering.answer, copy, ChatReply(copy.id, request.model)))

    async def _embed(self, headers: Headers, receive: Receive, send: Send) -> None:
        key, bounds = self._authenticate(headers, "chat"), self._settings.protection
        request = parse_embedding(await read_json(receive, bounds.max_body_bytes), bounds.max_prompt_characters)
        tokens = sum(len(text) // 4 + 1 for text in request.texts)
        snapshot, arms = self.view
        arm = arms.get(request.model) or next((arms.get(name) for name in snapshot.weights), None)
        async with self._limiter.admit(key, tokens) as permit:
            permit.settle(tokens)
            reply = await self._embeddings.embed(request, arm)
        await send_json(send, 200, reply, permit.headers())

    def _exchange(self, view: View, request: ChatRequest, key: Key, headers: Headers) -> Exchange:
        """The request with its arm: sticky by user or session, that of the model's name, or that of its task."""
        received_at = event_time(_text(headers, b"x-event-time"), allowed="simulate" in key.scopes)
        name = self._release(view, request, request.user or _text(headers, b"x-session-id"))
        arm = view.arms.get(name)
        if arm is None:
            raise HttpError(503, f"release {name} is not ready", code="not_ready", retry_after=1)
        exchange = Exchange(request, arm, key, received_at, trace_of(_text(headers, b"traceparent")), name)
        if arm.plan.tasks and (task := arm.plan.task(request.metadata, exchange.question)):
            exchange.upstream, exchange.arm = task.upstream, view.arms.get(task.release or name, arm)
        return exchange

    def _release(self, view: View, request: ChatRequest, who: str | None) -> str:
        weights, arms = view.snapshot.weights, view.arms
        if not weights:
            raise HttpError(503, "nothing is deployed yet", code="not_deployed", retry_after=2)
        if self._by_name and request.model in arms:
            return request.model
        if request.model != MODEL:
            if self._by_name:
                why = f"there is {', '.join(arms)}"
            else:
                why = f"there is {MODEL!r} (which release answers is not the client's choice)"
            raise HttpError(404, f"no model {request.model!r}; {why}", code="model_not_found")
        return choose(weights, who or os.urandom(16).hex()) if len(weights) > 1 else next(iter(weights))

    async def _feedback(self, headers: Headers, receive: Receive, send: Send) -> None:
        key = self._authenticate(headers, "chat", "feedback")
        found = parse_feedback(await read_json(receive))
        try:
            await self._feedback_log.append(found.row(key.name, now()))
        except OSError as full:
            raise HttpError(503, f"the feedback cannot be written: {full}", code="log_failed", retry_after=5) from full
        self.metrics.opinion(found.rating)
        await send_json(send, 200, {"ok": True})

    async def _models(self, headers: Headers, receive: Receive, send: Send) -> None:
        self._authenticate(headers, "chat")
        await send_json(send, 200, models(list(self.view.arms) if self._by_name else [MODEL]))

    async def _openapi(self, headers: Headers, receive: Receive, send: Send) -> None:
        known = list(self.view.arms) if self._by_name else [MODEL]
        await send_json(send, 200, openapi.document(self._paths, known, self._settings.protection.max_output_tokens))

    async def _healthz(self, headers: Headers, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})

    async def _readyz(self, headers: Headers, receive: Receive, send: Send) -> None:
        snapshot, arms = self.view
        missing = [name for name in snapshot.weights if name not in arms or not arms[name].ready]
        ready = bool(snapshot.weights) and not missing
        status: dict[str, Any] = {"ready": ready, "revision": snapshot.revision, "traffic": dict(snapshot.weights), "waiting_for": missing}
        await send_json(send, 200 if ready else 503, status)

    async def _metrics(self, headers: Headers, receive: Receive, send: Send) -> None:
        await send_bytes(send, 200, self.metrics.text(), self.metrics.content_type)


def _give_back() -> None:
    """Hand memory that only the start needed (compiled patterns, most of all) back to the system, where the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _text(headers: Headers, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def main() -> None:
    parser = argparse.ArgumentParser(description="The gateway in front of the engines, on 127.0.0.1.")
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder (HOME/endpoint)")
    parser.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--fd", type=int, help="a listening socket that was passed on, instead of a port")
    parser.add_argument("--reuse-port", action="store_true", help="other gateways may listen on the same port")
    parser.add_argument("--certificate", type=Path, help="PEM file of the TLS certificate (and its chain); speaks TLS")
    parser.add_argument("--private-key", type=Path, help="PEM file of its key, if it is not in the same file")
    parser.add_argument("--parent", type=int, help="end when this process does")
    options = parser.parse_args()
    die_with(options.parent)
    start_logging()
    settings = load_settings(options.folder)
    tls = Tls(options.certificate, options.private_key or options.certificate) if options.certificate else None
    serve(
        Gateway(options.folder, settings),
        options.port,
        fd=options.fd,
        shared=options.reuse_port,
        protection=settings.protection,
        tls=tls,
    )


if __name__ == "__main__":
    main()
