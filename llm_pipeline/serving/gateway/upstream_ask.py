"""Getting an answer: the engines of a plan in their order, the better one when the answer is weak, once more when guardrails ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.exchange import Exchange, Pieces
from llm_pipeline.serving.gateway.upstream import Target, Upstream, UpstreamError, Upstreams
from llm_pipeline.serving.gateway.upstream_plan import ENGINE, Escalation, own_engine, unsure

Show = Callable[[Pieces], Awaitable[None]]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Engines:
    """All engines that this gateway may ask."""

    def __init__(self, longest: int) -> None:
        self._upstreams = Upstreams()
        self._longest = longest
        self._turn = 0
        self._own: dict[tuple[str, str], Target] = {}
        """The replicas of releases, which never change but in number."""

    async def close(self) -> None:
        await self._upstreams.close()

    async def fetch(self, upstream: Upstream, path: str, body: dict[str, Any], request_id: str, trace: str) -> Any:
        """What an upstream answers to a request of another kind."""
        target = self._upstreams.target("", upstream)
        model = {"model": upstream.model} if upstream.model else {}
        async with self._upstreams.call(target, path, body | model, request_id, trace) as call:
            return await call.whole()

    async def answer(self, exchange: Exchange, show: Show | None) -> None:
        """Fill the exchange's answers; `show` gets the pieces of a stream as they come. Raises `HttpError`."""
        plan = exchange.arm.plan
        order = (exchange.upstream,) if exchange.upstream else plan.order
        rule = plan.escalate if plan.escalate and plan.escalate.to != order[0] else None
        if rule is None:
            return await self._in_order(exchange, order, show)
        await self._in_order(exchange, order, None)
        if why := _weak(exchange, rule):
            exchange.upstreams[-1]["escalated"] = why
            kept = exchange.choices, exchange.usage
            try:
                return await self._in_order(exchange, (rule.to,), show)
            except UpstreamError:
                if exchange.shown:
                    raise
                exchange.choices, exchange.usage = kept
        if show is not None:
            await show([(choice.index, choice.text) for choice in exchange.choices.values() if choice.text])

    async def _in_order(self, exchange: Exchange, names: Sequence[str], show: Show | None) -> None:
        last: HttpError | None = None
        for target in self._targets(exchange, names):
            try:
                return await self._ask(target, exchange, show)
            except UpstreamError as error:
                if exchange.shown:
                    raise
                last = error
        release = exchange.arm.route.release
        raise last or HttpError(503, f"no engine answers for release {release}", code="engine_unavailable", retry_after=1)

    def _targets(self, exchange: Exchange, names: Sequence[str]) -> Iterator[Target]:
        """Who may be asked, in order; replicas of the release's own engine by how busy they are."""
        refused = None
        for target in (target for name in names for target in self._named(exchange, name)):
            refused = exchange.uses(target.upstream.unsupported)
            if refused is None and target.breaker.allows(asyncio.get_running_loop().time()):
                yield target
        if refused is not None:
            raise HttpError(400, f"the engine does not support {refused!r}", code="unsupported_field")

    def _named(self, exchange: Exchange, name: str) -> list[Target]:
        route, plan = exchange.arm.route, exchange.arm.plan
        if name != ENGINE:
            return [self._upstreams.target(name, plan.upstreams[name])]
        self._turn += 1
        first = self._turn % len(route.urls) if route.urls else 0
        urls = [*route.urls[first:], *route.urls[:first]]
        targets = [self._own.get((route.release, url)) or self._replica(exchange, url) for url in urls]
        return sorted(targets, key=lambda target: target.in_flight)

    def _replica(self, exchange: Exchange, url: str) -> Target:
        route = exchange.arm.route
        made = self._upstreams.target(ENGINE, own_engine(route.engine, url, exchange.arm.plan.prices))
        self._own[route.release, url] = made
        return made

    async def _ask(self, target: Target, exchange: Exchange, show: Show | None) -> None:
        while True:
            exchange.begin(target, streamed=show is not None)
            began = exchange.clock()
            status, partly = 499, True
            try:
                await self._stream(target, exchange, show)
                status, partly = 200, False
            except HttpError as error:
                status = error.status
                if error.code == "context_length_exceeded" and exchange.passages:
                    exchange.passages = exchange.passages[:-1]
                    continue
                raise
            finally:
                if partly:
                    exchange.spend(target)
                exchange.upstreams.append({"name": target.name, "status": status, "seconds": round(exchange.clock() - began, 6)})
            reason = exchange.asks_again
            if reason is None:
                return
            exchange.ask_again(reason)

    async def _stream(self, target: Target, exchange: Exchange, show: Show | None) -> None:
        longest = None if target.name == ENGINE else self._longest
        body = exchange.body(target, longest)
        call = self._upstreams.call(target, TEXT if exchange.raw else CHAT, body, exchange.id, exchange.trace.header)
        try:
            async with call:
                while (events := await call.events()) is not None:
                    pieces = exchange.take(events)
                    if pieces and show is not None:
                        await show(pieces)
                    if exchange.stopped:
                        break
                else:
                    await call.finish()
        finally:
            exchange.compute = call.seconds
        pieces = exchange.close(target)
        if pieces and show is not None:
            await show(pieces)


def _weak(exchange: Exchange, rule: Escalation) -> str | None:
    choice = exchange.choices[0]
    if choice.calls:
        return None
    schema = _schema_fault(exchange, choice.text)
    return unsure(rule, choice.text, choice.finish or "", choice.logprobs) or schema


def _schema_fault(exchange: Exchange, text: str) -> str | None:
    """Whether an answer that should be JSON (of a schema) is not."""
    wanted = exchange.request.response_format
    if wanted is None:
        return None
    from llm_pipeline.serving.guardrails.output import schema_fault

    schema = wanted["json_schema"]["schema"] if wanted["type"] == "json_schema" else {"type": "object"}
    return "schema" if schema_fault(text, dict(schema)) else None
