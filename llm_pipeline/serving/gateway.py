"""The gateway: the only port that clients see. Keys, guardrails, retrieval, a sticky arm, and a durable record of every answer.

python -m llm_pipeline.serving.gateway --folder HOME/endpoint --port 8088
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp

from llm_pipeline.serving.asgi import (
    Disconnected,
    EventStream,
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
from llm_pipeline.serving.exchange import Exchange, event_time, now
from llm_pipeline.serving.guardrails import BLOCKED_INPUT, BLOCKED_OUTPUT
from llm_pipeline.serving.interactions import SegmentWriter
from llm_pipeline.serving.keys import Key, key_hash
from llm_pipeline.serving.metrics import Metrics
from llm_pipeline.serving.processes import die_with
from llm_pipeline.serving.protocol import GATEWAY_FIELDS, chunk, completion, models, parse_chat, text_chunk, usage_chunk
from llm_pipeline.serving.routing import Router, Snapshot, choose
from llm_pipeline.serving.state import State

log = logging.getLogger(__name__)
POLL_SECONDS = 0.3
MODEL = "default"


class Gateway:
    """ASGI application over the endpoint's folder (its database and logs)."""

    def __init__(self, folder: Path, poll_seconds: float = POLL_SECONDS) -> None:
        self._folder, self._poll_seconds = folder, poll_seconds
        self._router = Router(State(folder))
        self._search = ThreadPoolExecutor(2, "retrieval")
        self._polling = ThreadPoolExecutor(1, "router")
        self.snapshot = Snapshot()
        self.metrics = Metrics()
        self._routes: dict[str, Callable[[dict[str, str], Receive, Send], Awaitable[None]]] = {
            "POST /v1/chat/completions": self._chat,
            "POST /v1/feedback": self._feedback,
            "GET /v1/models": self._models,
            "GET /healthz": self._healthz,
            "GET /readyz": self._readyz,
            "GET /metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send, self._start, self._stop)
        route = f"{scope['method']} {scope['path']}"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if route not in self._routes:
                raise HttpError(404, f"no such path: {route}; there are {', '.join(self._routes)}")
            await self._routes[route](headers, receive, send)
        except HttpError as error:
            await send_json(send, error.status, error.body(), error.headers())
        except Disconnected:
            return
        except Exception:
            log.exception("%s failed", route)
            await send_json(send, 500, HttpError(500, "internal error").body())

    async def _start(self) -> None:
        self._log = SegmentWriter(self._folder / "interactions")
        self._feedback_log = SegmentWriter(self._folder / "feedback")
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=20), auto_decompress=False)
        self._poller = asyncio.create_task(self._poll())

    async def _stop(self) -> None:
        self._poller.cancel()
        await self._http.close()
        await asyncio.to_thread(self._log.close)
        await asyncio.to_thread(self._feedback_log.close)

    async def _poll(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                snapshot = await loop.run_in_executor(self._polling, self._router.refresh)
                self.snapshot = snapshot
                self.metrics.traffic(snapshot.weights)
                await loop.run_in_executor(self._polling, self._router.report, snapshot)
            except Exception:
                log.exception("the desired state cannot be read; the last one stays in force")
            await asyncio.sleep(self._poll_seconds)

    def _authenticate(self, headers: dict[str, str], *scopes: str) -> Key:
        """The request's key, which must have one of `scopes`."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise HttpError(401, "an API key is needed: Authorization: Bearer <key>", code="missing_api_key")
        known = self.snapshot.keys.get(key_hash(key.strip()))
        if known is None:
            raise HttpError(401, "the API key is not valid", code="invalid_api_key")
        if not known.scopes & set(scopes):
            raise HttpError(403, f"the API key lacks the scope {' or '.join(scopes)}", code="scope_missing")
        return known

    async def _chat(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        key = self._authenticate(headers, "chat")
        request = parse_chat(await read_json(receive), GATEWAY_FIELDS)
        if request.model != MODEL:
            raise HttpError(
                404,
                f"no model {request.model!r}; there is {MODEL!r} (which release answers is not the client's choice)",
                code="model_not_found",
            )
        received_at = event_time(headers.get("x-event-time"), allowed="simulate" in key.scopes)
        snapshot = self.snapshot
        if not snapshot.weights:
            raise HttpError(503, "nothing is deployed yet", code="not_deployed", retry_after=2)
        arm = choose(snapshot.weights, request.user or headers.get("x-session-id") or uuid.uuid4().hex)
        if arm not in snapshot.routes:
            raise HttpError(503, f"release {arm} is not ready", code="not_ready", retry_after=1)
        exchange = Exchange(request, snapshot.routes[arm], key.name, received_at)
        self.metrics.in_flight.inc()
        try:
            await until_disconnect(receive, self._answer(exchange, send))
        finally:
            self.metrics.in_flight.dec()
            self.metrics.finished(exchange)

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        """Guard, retrieve, generate, log, reply; whatever happens after the arm was chosen is logged under that arm."""
        stream = EventStream(send, {"x-interaction-id": exchange.id})
        try:
            await self._generate(exchange, stream)
            await self._log.append(exchange.record())
        except asyncio.CancelledError:
            exchange.finish = "cancelled"
            self._log.submit(exchange.record())
            raise
        except OSError as error:
            exchange.finish = "error"
            return await self._fail(stream, HttpError(503, f"the interaction log cannot be written: {error}", code="log_failed"))
        except HttpError as error:
            exchange.finish = "error" if error.status != 400 else "refused"
            if error.status != 400:
                await self._log.append(exchange.record())
            return await self._fail(stream, error)
        except Exception:
            log.exception("interaction %s failed", exchange.id)
            exchange.finish = "error"
            await self._log.append(exchange.record())
            return await self._fail(stream, HttpError(500, "internal error"))
        await self._reply(exchange, stream, send)

    async def _fail(self, stream: EventStream, error: HttpError) -> None:
        """Once events have been sent, an error can only be one more event."""
        if not stream.started:
            raise error
        await stream.event(error.body())
        await stream.done()

    async def _generate(self, exchange: Exchange, stream: EventStream) -> None:
        request, route = exchange.request, exchange.route
        exchange.guardrails += route.policy.check_input(request.messages)
        exchange.seconds["guardrails"] = exchange.clock()
        if exchange.guardrails:
            exchange.answer, exchange.finish = BLOCKED_INPUT, "content_filter"
            if request.stream:
                await stream.event(text_chunk(exchange.id, MODEL, BLOCKED_INPUT, first=True))
            return
        if request.retrieval if request.retrieval is not None else route.retrieval:
            await self._retrieve(exchange)
        if route.url is None:
            raise HttpError(503, f"no engine answers for release {route.release}", code="engine_unavailable", retry_after=1)
        while not await self._stream_pieces(exchange, stream):
            exchange.passages = exchange.passages[:-1]
        if exchange.finish == "content_filter" and not request.stream:
            exchange.answer = BLOCKED_OUTPUT

    async def _stream_pieces(self, exchange: Exchange, stream: EventStream) -> bool:
        """Let the engine answer; False when the prompt is too long for it and would be shorter with a passage less."""
        try:
            async with aclosing(exchange.pieces(self._http)) as pieces:
                async for piece in pieces:
                    if exchange.request.stream:
                        await stream.event(text_chunk(exchange.id, MODEL, piece, first=not stream.started))
        except HttpError as error:
            if error.code == "context_length_exceeded" and exchange.passages:
                return False
            raise
        return True

    async def _retrieve(self, exchange: Exchange) -> None:
        route, began = exchange.route, exchange.clock()
        if route.searcher is None:
            raise HttpError(503, f"release {route.release} has no index to retrieve from", code="retrieval_unavailable")
        exchange.passages = await asyncio.get_running_loop().run_in_executor(
            self._search, route.searcher.search, exchange.question, route.passages
        )
        exchange.seconds["retrieval"] = exchange.clock() - began

    async def _reply(self, exchange: Exchange, stream: EventStream, send: Send) -> None:
        """The end of the answer; the interaction is on disk by now."""
        if not exchange.request.stream:
            reply = completion(exchange.id, MODEL, exchange.answer, exchange.finish, exchange.usage, **exchange.extras())
            return await send_json(send, 200, reply, {"x-interaction-id": exchange.id})
        await stream.event(chunk(exchange.id, MODEL, {}, exchange.finish, **exchange.extras()))
        if exchange.request.include_usage:
            await stream.event(usage_chunk(exchange.id, MODEL, exchange.usage))
        await stream.done()

    async def _feedback(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        key = self._authenticate(headers, "chat", "feedback")
        body = await read_json(receive)
        allowed = {"interaction_id", "rating", "comment"}
        if (
            not isinstance(body, dict)
            or set(body) - allowed
            or not isinstance(body.get("interaction_id"), str)
            or body.get("rating") not in ("up", "down")
        ):
            raise HttpError(400, 'expected {"interaction_id": text, "rating": "up" or "down", "comment": text (optional)}')
        await self._feedback_log.append({**body, "comment": str(body.get("comment") or "")[:4000], "key": key.name, "received_at": now()})
        await send_json(send, 200, {"ok": True})

    async def _models(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        self._authenticate(headers, "chat")
        await send_json(send, 200, models([MODEL]))

    async def _healthz(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})

    async def _readyz(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        snapshot = self.snapshot
        missing = snapshot.missing()
        ready = bool(snapshot.weights) and not missing
        status: dict[str, Any] = {"ready": ready, "revision": snapshot.revision, "traffic": dict(snapshot.weights), "waiting_for": missing}
        await send_json(send, 200 if ready else 503, status)

    async def _metrics(self, headers: dict[str, str], receive: Receive, send: Send) -> None:
        await send_bytes(send, 200, self.metrics.text(), self.metrics.content_type)


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(
        Gateway(options.folder),
        options.port,
        fd=options.fd,
        shared=options.reuse_port,
        certificate=options.certificate,
        private_key=options.private_key,
    )


if __name__ == "__main__":
    main()
