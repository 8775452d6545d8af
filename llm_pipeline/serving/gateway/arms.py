"""What a release's requests need, made ready once when the gateway first sees the release: guardrails and the plan of its engines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from llm_pipeline.serving.gateway.upstream import Prices
from llm_pipeline.serving.gateway.upstream_plan import ENGINE, Plan, plan_of
from llm_pipeline.serving.guardrails import Guards
from llm_pipeline.serving.traffic.routing import Route

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """A release as requests meet it."""

    route: Route
    guards: Guards
    plan: Plan
    prompt_id: str

    @cached_property
    def dearest(self) -> Prices:
        """The highest prices that a request may be answered at."""
        prices = [self.plan.prices, *(upstream.prices for upstream in self.plan.upstreams.values())]
        return Prices(max(price.prompt for price in prices), max(price.completion for price in prices))

    @property
    def ready(self) -> bool:
        """Whether there is an engine to ask: its own has an address, or it needs none of its own."""
        return bool(self.route.urls) or ENGINE not in self.plan.order


class Arms:
    """Keeps what is slow to make. `of` may load a detector, so it belongs on a thread."""

    def __init__(self) -> None:
        self._made: dict[str, Arm] = {}

    def of(self, routes: Mapping[str, Route]) -> Mapping[str, Arm]:
        arms: dict[str, Arm] = {}
        for name, route in routes.items():
            known = self._made.get(name)
            try:
                if known is None or known.route.policy is not route.policy:
                    known = Arm(route, _warm(Guards(route.policy)), plan_of(route.engine, f"release {name}"), route.prompt.id)
            except Exception:  # one broken release must not take the others with it
                log.exception("release %s cannot be served", name)
                continue
            arms[name] = known if known.route is route else replace(known, route=route)
        self._made = arms
        return arms


def _warm(guards: Guards) -> Guards:
    """What rules load when they first run is loaded here, not while a request waits."""
    messages = [{"role": "user", "content": "warm up"}]
    guards.check(messages, ["warm up"])
    guards.policy.check_input(messages)
    guards.after(messages).feed("warm up", last=True)
    return guards
