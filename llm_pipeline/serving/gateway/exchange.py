"""One request and its answer inside the gateway: what was asked of which arm, what came back, and the record of both."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from operator import attrgetter, itemgetter
from typing import Any

from llm_pipeline.prompts import Prompt
from llm_pipeline.records import Interaction
from llm_pipeline.serving.cache.answers import Lookup
from llm_pipeline.serving.gateway.arms import Arm
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.exchange_choice import Choice
from llm_pipeline.serving.gateway.protocol import ChatRequest
from llm_pipeline.serving.gateway.protocol_reply import Ended
from llm_pipeline.serving.gateway.upstream import Target
from llm_pipeline.serving.guardrails import BLOCKED_INPUT, OutputGuard, Verdict
from llm_pipeline.serving.observability.telemetry import Trace
from llm_pipeline.serving.protection.keys import Key
from llm_pipeline.serving.traffic.routing import Found

_USUAL = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "top_logprobs": 0, "n": 1}
_OPTIONAL = ("seed", "response_format", "tool_choice", "parallel_tool_calls", "user", "logprobs", "tools", "stop", *_USUAL)
_OPTIONS = itemgetter(*_OPTIONAL)
_STOPPED = attrgetter("stopped")
_UNSET = _OPTIONS(vars(ChatRequest([])))
AS_IT_IS = Prompt(grounded="{passages}{question}")
Pieces = list[tuple[int, str]]
"""Number of an answer, and the text to show of it."""


@dataclass
class Exchange:
    """Gathers what the interaction log needs while a request goes through the gateway."""

    request: ChatRequest
    arm: Arm
    key: Key
    received_at: str
    trace: Trace
    variant: str = ""
    upstream: str | None = None
    """The special upstream of the request's task."""
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    started: float = field(default_factory=time.perf_counter)
    passages: Sequence[Found] = ()
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=lambda: {"prompt_tokens": 0, "completion_tokens": 0})
    cost: float = 0.0
    compute: float = 0.0
    """Seconds of the engine that was asked last."""
    seconds: dict[str, float] = field(default_factory=dict)
    guardrails: list[str] = field(default_factory=list)
    guardrail_events: list[dict[str, Any]] = field(default_factory=list)
    upstreams: list[dict[str, Any]] = field(default_factory=list)
    cache: str = ""
    lookup: Lookup = field(default_factory=Lookup)
    remarks: list[dict[str, Any]] = field(default_factory=list)
    """What is added when the model is asked again: its answer, and what was wrong with it."""
    finish: str | None = None
    """How it ended when not as its first answer did: error, cancelled, content_filter."""
    status: int = 200
    error: str = ""
    fixed: str | None = None
    """The answer that did not come from an engine."""
    shown: bool = False
    """Whether the client has seen some of it."""

    def __post_init__(self) -> None:
        self.messages: Sequence[Mapping[str, Any]] = self.request.messages
        self.sent: list[dict[str, Any]] = []
        self.raw = False
        self._counted = 0
        self._kept: Sequence[Mapping[str, Any]] = ()

    @property
    def question(self) -> str:
        return next(str(message["content"]) for message in reversed(self.messages) if message["role"] == "user")

    @property
    def retrieves(self) -> bool:
        """Whether passages are to be found for the question."""
        if self.request.raw:
            return False
        return self.arm.route.retrieval if self.request.retrieval is None else self.request.retrieval

    def clock(self) -> float:
        return time.perf_counter() - self.started

    def extras(self) -> dict[str, Any]:
        """The fields of a reply that OpenAI's does not have."""
        return {"interaction_id": self.id, "release": self.arm.route.release, "passages": self._passages()}

    def _passages(self) -> list[dict[str, Any]]:
        return [*map(dict, self._kept), *({"id": p.id, "uri": p.uri, "score": round(float(p.score), 6)} for p in self.passages)]

    def note(self, verdict: Verdict) -> None:
        """Keep what the guardrails said."""
        for rule in verdict.rules:
            if rule not in self.guardrails:
                self.guardrails.append(rule)
                self.guardrail_events.append({"rule": rule, "action": verdict.action, "score": verdict.score})

    def refuse_question(self) -> None:
        self.fixed, self.finish = BLOCKED_INPUT, "content_filter"

    def found(self, lookup: Lookup) -> None:
        """Take the cache's answer, if it has one; it costs no tokens."""
        self.lookup, self.cache = lookup, lookup.state
        if lookup.answer is not None:
            self.fixed, self.finish, self._kept = lookup.answer.text, lookup.answer.finish_reason, lookup.answer.passages

    def begin(self, target: Target, streamed: bool) -> None:
        """Forget what an earlier engine said; nothing of it was shown."""
        self.raw = self.request.raw and target.upstream.completions
        self.sent = [dict(self.messages[-1])] if self.raw else self._conversation()
        guard, prompt = self._guard(), AS_IT_IS if self.raw else self.arm.route.prompt
        self.choices = {i: Choice(i, prompt, guard, streamed=streamed) for i in range(self.request.n)}
        self.usage, self._counted, self._reported = {"prompt_tokens": 0, "completion_tokens": 0}, 0, False

    def _guard(self) -> Callable[[], OutputGuard]:
        return partial(self.arm.guards.after, self.sent, [passage.text for passage in self.passages])

    def _conversation(self) -> list[dict[str, Any]]:
        """The messages for the model. Turns of tools go as they are; the prompt is put around the last question."""
        prompt, messages = self.arm.route.prompt, self.messages
        texts = [passage.text for passage in self.passages]
        if messages[-1]["role"] == "user" and all(len(message) == 2 for message in messages):
            return [*prompt.messages(messages, texts), *self.remarks]
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        head = [message for message in messages[:1] if message["role"] == "system"]
        *lead, asked = prompt.messages([*head, messages[last]], texts)
        return [*lead, *map(dict, messages[len(head) : last]), asked, *map(dict, messages[last + 1 :]), *self.remarks]

    def body(self, target: Target, longest: int | None) -> dict[str, Any]:
        """The request to an engine: always streamed; `longest` bounds answers whose length the client leaves open."""
        request, upstream = self.request, target.upstream
        body: dict[str, Any] = {
            "model": request.adapter or upstream.model or request.model,
            **({"prompt": self.sent[0]["content"]} if self.raw else {"messages": self.sent}),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": request.temperature,
            "top_p": request.top_p,
        } | self._asked
        if most := request.max_tokens or longest:
            body[upstream.length_field] = most
        rule = self.arm.plan.escalate
        if rule is not None and rule.mean_logprob is not None and target.name != rule.to and not self.raw:
            body["logprobs"] = True
        for name in upstream.omit:
            body.pop(name, None)
        return body

    @cached_property
    def _asked(self) -> dict[str, Any]:
        """The fields that not every engine knows, as far as the client set them."""
        set_ = vars(self.request)
        if _OPTIONS(set_) == _UNSET:
            return {}
        found = {name: value for name in _OPTIONAL if (value := set_[name]) is not None and value is not False and value != ()}
        for name, usual in _USUAL.items():
            if found[name] == usual:
                del found[name]
        return found

    def uses(self, fields: Sequence[str]) -> str | None:
        """The first of these fields that the client set."""
        if not fields:
            return None
        asked = {*self._asked, *(["adapter"] if self.request.adapter else [])}
        return next((name for name in fields if name in asked), None)

    def take(self, events: Sequence[Mapping[str, Any]]) -> Pieces:
        """Take in what an engine sent; what may be shown of it, one piece for each answer."""
        parts: dict[Choice, str] = {}
        choices = self.choices
        for event in events:
            if usage := event.get("usage"):
                self.usage, self._reported = {name: int(usage.get(name) or 0) for name in self.usage}, True
            for part in event.get("choices") or ():
                if (choice := choices.get(part.get("index") or 0)) is not None:
                    if not self._counted:
                        self.seconds.setdefault("first_token", self.clock())
                    self._counted += 1
                    if text := choice.take(part):
                        parts[choice] = parts.get(choice, "") + text
        pieces = []
        for choice, text in parts.items():
            if shown := choice.feed(text):
                pieces.append((choice.index, shown))
        return pieces

    @property
    def stopped(self) -> bool:
        """Whether the guardrails stopped every answer."""
        return all(map(_STOPPED, self.choices.values()))

    def close(self, target: Target) -> Pieces:
        """The end of the engine's answer, or of its part of it."""
        pieces = [(choice.index, text) for choice in self.choices.values() if (text := choice.close())]
        for choice in self.choices.values():
            for verdict in (choice.verdict, *choice.call_verdicts):
                self.note(verdict)
            if choice.verdict.stops:
                choice.refuse()
        self.spend(target)
        return pieces

    def spend(self, target: Target) -> None:
        """Count what an engine did; one that does not say how much is taken to have made a token with every event."""
        if not self._reported and self._counted:
            characters = sum(len(str(message["content"])) for message in self.sent)
            self.usage = {"prompt_tokens": characters // 4 + 1, "completion_tokens": self._counted}
        prices = target.upstream.prices
        self.cost += prices.of(self.usage, self.compute)
        if prices.second:
            self.seconds["compute"] = self.seconds.get("compute", 0.0) + self.compute

    @property
    def asks_again(self) -> str | None:
        """What to tell the model, when its answer is to be asked for again."""
        if self.remarks or self.shown or self.raw:
            return None
        return next((choice.verdict.reason for choice in self.choices.values() if choice.verdict.action == "reask"), None)

    def ask_again(self, reason: str) -> None:
        said = self.choices[0].said
        self.remarks = [{"role": "assistant", "content": said}, {"role": "user", "content": f"That answer cannot be used: {reason}"}]

    def answers(self) -> list[Ended]:
        if self.fixed is not None:
            return [Ended(0, self.fixed, self.finish or "stop")]
        return [choice.ended(logprobs=self.request.logprobs) for choice in self.choices.values()]

    def fail(self, error: HttpError) -> None:
        self.finish = "error" if error.status != 400 else "refused"
        self.status, self.error = error.status, error.code or ""

    def record(self) -> Interaction:
        request, route = self.request, self.arm.route
        first = self.choices.get(0)
        answer = self.fixed if self.fixed is not None else first.text if first else ""
        parameters = {"model": request.model, "temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.max_tokens}
        return Interaction(
            id=self.id,
            received_at=self.received_at,
            release=route.release,
            key=self.key.name,
            messages=list(map(dict, self.messages)),
            answer=answer,
            finish_reason=self.finish or (first.finish if first else None) or "stop",
            passages=self._passages(),
            usage=self.usage,
            seconds={name: round(value, 6) for name, value in (self.seconds | {"total": self.clock()}).items()},
            guardrails=self.guardrails,
            user=request.user,
            key_id=self.key.id,
            variant=self.variant or route.release,
            prompt=self._prompt(),
            parameters={name: value for name, value in (parameters | self._asked).items() if value is not None},
            guardrail_events=self.guardrail_events,
            cache=self.cache,
            cost=round(self.cost, 9),
            upstreams=self.upstreams,
            trace_id=self.trace.trace_id,
            span_id=self.trace.span_id,
            parent_span_id=self.trace.parent_span_id,
            status=self.status,
            error=self.error,
            raw=first.said if first and (route.prompt.reasoning or route.prompt.output) else "",
            choices=self._choices(),
        )

    def _prompt(self) -> dict[str, str]:
        system = next((message["content"] for message in self.sent if message["role"] == "system"), None)
        found = {"id": self.arm.prompt_id}
        return found if system is None else found | {"system": hashlib.blake2b(system.encode(), digest_size=8).hexdigest()}

    def _choices(self) -> list[dict[str, Any]]:
        """Every answer, where there are several or tool calls."""
        if self.fixed is not None or (len(self.choices) == 1 and not self.choices[0].calls):
            return []
        answers = [choice.ended(logprobs=False) for choice in self.choices.values()]
        return [{"text": a.text, "finish_reason": a.finish, "tool_calls": list(a.tool_calls)} for a in answers]


def now() -> str:
    return datetime.now(UTC).isoformat()


def event_time(value: str | None, *, allowed: bool) -> str:
    """When the request came in: the gateway's clock, or what a client that may simulate says."""
    if value is None:
        return now()
    if not allowed:
        raise HttpError(403, "x-event-time needs a key of scope simulate", code="scope_missing")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise HttpError(400, f"x-event-time: received {value[:60]!r}, expected ISO 8601") from None
    if moment.tzinfo is None:
        raise HttpError(400, f"x-event-time: received {value!r}, expected an offset from UTC")
    return moment.isoformat()
