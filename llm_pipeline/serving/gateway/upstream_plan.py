"""Which engine answers what: fallback order, the large model only where the small one is unsure, special models for special tasks.

A plan stands under `routing` in a release's engine settings, or with a model in the file of a gateway that runs alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.serving.gateway.upstream import Prices, Upstream

ENGINE = "engine"
"""The release's own engine, whose replicas the supervisor runs."""


@dataclass(frozen=True)
class Escalation:
    """Ask a better upstream again when an answer is likely to be bad: empty, refused, not of its schema, or unsure."""

    to: str
    mean_logprob: float | None = None
    """Unsure: the mean log-probability of the answer's tokens is below this (natural logarithm)."""
    refusals: tuple[str, ...] = ()
    """Patterns of answers that refuse."""

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        return re.compile("|".join(f"(?:{pattern})" for pattern in self.refusals), re.IGNORECASE) if self.refusals else None


@dataclass(frozen=True)
class Task:
    """Requests of one kind go to an upstream of this plan, or to another release (a file's gateway: another model of the file).

    A request is of the kind when its metadata names the task, or one of its keywords or the pattern is in the last question.
    """

    name: str
    upstream: str | None = None
    release: str | None = None
    keywords: tuple[str, ...] = ()
    pattern: str | None = None

    def __post_init__(self) -> None:
        if (self.upstream is None) == (self.release is None):
            raise ConfigError(f"task {self.name!r}: expected either an upstream or a release")
        self.expression  # noqa: B018  (a wrong pattern is an error when the plan is read)

    @cached_property
    def expression(self) -> re.Pattern[str] | None:
        words = [rf"\b{re.escape(word)}\b" for word in self.keywords]
        parts = [*words, *([f"(?:{self.pattern})"] if self.pattern else [])]
        try:
            return re.compile("|".join(parts), re.IGNORECASE) if parts else None
        except re.error as error:
            raise ConfigError(f"task {self.name!r}: not a regular expression: {error}") from error

    def fits(self, metadata: Mapping[str, str], question: str) -> bool:
        named = metadata.get("task")
        if named is not None:
            return named == self.name
        return self.expression is not None and self.expression.search(question) is not None


@dataclass(frozen=True)
class Plan:
    """The way of a request to an answer."""

    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    order: tuple[str, ...] = (ENGINE,)
    """Each is asked when the one before failed and nothing of its answer has been shown."""
    escalate: Escalation | None = None
    tasks: tuple[Task, ...] = ()
    prices: Prices = field(default_factory=Prices)
    """Of the release's own engine."""

    def __post_init__(self) -> None:
        known = [ENGINE, *self.upstreams]
        named = [*self.order, *([self.escalate.to] if self.escalate else []), *(task.upstream for task in self.tasks if task.upstream)]
        for name in named:
            if name not in known:
                raise ConfigError(f"routing: unknown upstream {name!r}{near(name, known)}")
        if ENGINE in self.upstreams:
            raise ConfigError(f"routing: {ENGINE!r} is the name of the release's own engine")
        if not self.order:
            raise ConfigError("routing: order: expected at least one upstream")
        if self.escalate:
            self.escalate.pattern  # noqa: B018

    def task(self, metadata: Mapping[str, str], question: str) -> Task | None:
        return next((task for task in self.tasks if task.fits(metadata, question)), None)


def plan_of(settings: Mapping[str, Any], where: str) -> Plan:
    """The plan in a release's engine settings; without any, its engine alone."""
    return build(Plan, dict(settings.get("routing") or {}), f"{where}: routing")


def own_engine(settings: Mapping[str, Any], url: str, prices: Prices) -> Upstream:
    """The release's engine at one of its addresses: it is started by its supervisor, so it is tried again after a second."""
    external = settings.get("name") == "openai"
    return Upstream(
        url,
        model=settings.get("model") if external else "default",
        key_variable=settings.get("key_variable") if external else None,
        prices=prices,
        open_seconds=1.0,
        completions=not external,
    )


def unsure(rule: Escalation, text: str, finish: str, logprobs: Sequence[float]) -> str | None:
    """Why an answer should be asked for again of a better model; None when it need not."""
    if finish == "content_filter":
        return "refused"
    if not text.strip():
        return "empty"
    if rule.pattern is not None and rule.pattern.search(text):
        return "refused"
    if rule.mean_logprob is not None and logprobs and sum(logprobs) / len(logprobs) < rule.mean_logprob:
        return "unsure"
    return None
