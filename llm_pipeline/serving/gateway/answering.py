"""The order of one request: limits, guardrails, cache, retrieval, engines, a durable record, and only then the end of the reply.

admit -> guards before -> cache -> retrieve -> engines (guards on what comes) -> record on disk -> reply's end
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from llm_pipeline.serving.cache.answers import AnswerCache
from llm_pipeline.serving.gateway.asgi import EventStream, HttpError, Send, send_json
from llm_pipeline.serving.gateway.exchange import Exchange, Pieces
from llm_pipeline.serving.gateway.protocol_reply import ChatReply
from llm_pipeline.serving.gateway.settings import GatewaySettings
from llm_pipeline.serving.gateway.upstream_ask import Engines
from llm_pipeline.serving.observability.interactions import SegmentWriter
from llm_pipeline.serving.observability.metrics import Metrics
from llm_pipeline.serving.protection.limits import Limiter, Protection

log = logging.getLogger(__name__)
USUAL_TOKENS = 256
"""Length that is asked of a key's limits for an answer whose length the client leaves open."""


class Gate:
    """How many requests are worked on at once; further ones wait in turn, bounded in number and time."""

    def __init__(self, settings: Protection) -> None:
        self._free, self._settings = settings.in_flight, settings
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        if self._free > 0:
            self._free -= 1
            return
        if len(self._waiting) >= self._settings.queue:
            raise HttpError(429, "too many requests wait already", code="overloaded", retry_after=1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait_for(turn, self._settings.queue_seconds)
        except TimeoutError:
            raise HttpError(429, f"no place became free in {self._settings.queue_seconds:g} s", code="overloaded", retry_after=1) from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Output:
    """Where an answer goes: chunks as they come, or one reply at the end."""

    def __init__(self, exchange: Exchange, reply: ChatReply, send: Send, headers: Mapping[str, str]) -> None:
        self._exchange, self._reply, self._send = exchange, reply, send
        self._headers = {"x-interaction-id": exchange.id, **headers}
        self._stream = EventStream(send, self._headers)

    def _cache_header(self) -> None:
        if self._exchange.cache:
            self._headers["x-cache"] = "miss" if self._exchange.cache == "miss" else "hit"

    async def show(self, pieces: Pieces) -> None:
        if not self._exchange.shown:
            self._exchange.shown = True
            self._cache_header()
        piece = self._reply.piece
        await self._stream.write(piece(*pieces[0]) if len(pieces) == 1 else b"".join([piece(*one) for one in pieces]))

    async def end(self) -> None:
        """The end of the answer; the interaction is on disk by now."""
        exchange, answers, extras = self._exchange, self._exchange.answers(), self._exchange.extras()
        self._cache_header()
        if not exchange.request.stream:
            whole = self._reply.whole(answers, exchange.usage, extras)
            return await send_json(self._send, 200, whole, self._headers)
        last = [self._reply.tool_calls(answer.index, answer.tool_calls) for answer in answers if answer.tool_calls]
        last += [self._reply.end(answer, extras) for answer in answers]
        if exchange.request.include_usage:
            last.append(self._reply.usage(exchange.usage))
        await self._stream.done(b"".join(last))

    async def fail(self, error: HttpError) -> None:
        """Once events have been sent, an error can only be one more event."""
        if not self._stream.started:
            headers = error.headers() | {"x-interaction-id": self._exchange.id}
            return await send_json(self._send, error.status, error.body(), headers)
        await self._stream.event(error.body())
        await self._stream.done()


class Answering:
    """What all requests of a gateway share."""

    def __init__(self, settings: GatewaySettings, log: SegmentWriter, limiter: Limiter, cache: AnswerCache, metrics: Metrics) -> None:
        self._log, self._limiter, self._cache, self._metrics = log, limiter, cache, metrics
        self._gate = Gate(settings.protection)
        self.engines = Engines(settings.protection.max_output_tokens)
        self._search = ThreadPoolExecutor(2, "retrieval")
        self._protection = settings.protection

    async def close(self) -> None:
        await self.engines.close()

    async def answer(self, exchange: Exchange, reply: ChatReply, send: Send) -> None:
        """Answer one request whose arm is chosen; refusals before anything was done for it are raised as `HttpError`."""
        asked = self._asked(exchange)
        async with self._limiter.admit(exchange.key, sum(asked.values()), exchange.arm.dearest.of(asked)) as permit:
            await self._gate.enter()
            exchange.seconds["queue"] = exchange.clock()
            self._metrics.in_flight.inc()
            try:
                await self._recorded(exchange, Output(exchange, reply, send, permit.headers()))
            finally:
                self._cache.release(exchange.lookup)
                self._gate.leave()
                self._metrics.in_flight.dec()
                permit.settle(sum(exchange.usage.values()), exchange.cost)

    def _asked(self, exchange: Exchange) -> dict[str, int]:
        """About what the request may use: four characters are about a token."""
        request = exchange.request
        size = sum(len(message["content"]) for message in request.messages)
        if size > self._protection.max_prompt_characters:
            longest = self._protection.max_prompt_characters
            raise HttpError(400, f"messages: {size} characters, at most {longest} are taken", code="prompt_too_long")
        if (request.max_tokens or 0) > self._protection.max_output_tokens:
            raise HttpError(400, f"max_tokens: received {request.max_tokens}, at most {self._protection.max_output_tokens}")
        return {"prompt_tokens": size // 4 + 1, "completion_tokens": (request.max_tokens or USUAL_TOKENS) * request.n}

    async def _recorded(self, exchange: Exchange, output: Output) -> None:
        """Whatever happens after the arm was chosen is logged under that arm, and the reply ends once it is."""
        error = None
        try:
            await self._guard(exchange)
            if exchange.fixed is None:
                found = await self._cache.lookup(exchange.request, exchange.arm.route, exchange.key, retrieves=exchange.retrieves)
                exchange.found(found)
            await self._generate(exchange, output)
        except asyncio.CancelledError:
            exchange.finish, exchange.status = "cancelled", 499
            self._submit(exchange)
            raise
        except HttpError as caught:
            error = caught
        except Exception:
            log.exception("interaction %s failed", exchange.id)
            error = HttpError(500, "internal error")
        if error is not None:
            exchange.fail(error)
        row = exchange.record()
        try:
            if exchange.status != 400:  # a request that cannot be answered by anyone is no interaction
                await self._log.append(row)
        except OSError as full:
            error = HttpError(503, f"the interaction log cannot be written: {full}", code="log_failed", retry_after=5)
        self._metrics.finished(row)
        if error is None:
            self._cache.store(exchange.lookup, row)
        await (output.end() if error is None else output.fail(error))

    def _submit(self, exchange: Exchange) -> None:
        row = exchange.record()
        self._metrics.finished(row)
        self._log.submit(row)

    async def _generate(self, exchange: Exchange, output: Output) -> None:
        if exchange.fixed is None and exchange.retrieves:
            await self._retrieve(exchange)
        if exchange.fixed is None:
            return await self.engines.answer(exchange, output.show if exchange.request.stream else None)
        if exchange.request.stream:
            await output.show([(0, exchange.fixed)])

    async def _guard(self, exchange: Exchange) -> None:
        began = exchange.clock()
        verdict = await exchange.arm.guards.before(exchange.messages)
        exchange.note(verdict)
        if verdict.stops:
            exchange.refuse_question()
        elif verdict.action == "redact":
            exchange.messages = verdict.messages
        exchange.seconds["guardrails"] = exchange.clock() - began

    async def _retrieve(self, exchange: Exchange) -> None:
        """Passages for the question, without those that give the model orders."""
        route, began = exchange.arm.route, exchange.clock()
        if route.searcher is None:
            raise HttpError(404, f"release {route.release} has no index to retrieve from", code="retrieval_unavailable")
        loop = asyncio.get_running_loop()
        search = partial(route.searcher.search, exchange.question, route.passages, labels=exchange.key.labels)
        found = await loop.run_in_executor(self._search, search)
        searched = exchange.clock()
        verdict = await exchange.arm.guards.before((), [passage.text for passage in found])
        exchange.note(verdict)
        if verdict.action == "block":
            exchange.refuse_question()
        exchange.passages = [found[i] for i in verdict.passages] if verdict.rules else list(found)
        exchange.seconds["retrieval"] = searched - began
        exchange.seconds["guardrails"] += exchange.clock() - searched
