"""What the gateway counts, in Prometheus' text format. Labels are releases and outcomes: few, and never a client's text."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llm_pipeline.serving.exchange import Exchange

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry per gateway process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.in_flight = Gauge("llm_requests_in_flight", "Chat requests under way", registry=self._registry)
        self._requests = Counter("llm_requests", "Chat requests by outcome", ("release", "finish_reason"), registry=self._registry)
        self._tokens = Counter("llm_tokens", "Tokens by kind", ("release", "kind"), registry=self._registry)
        self._first = Histogram("llm_first_token_seconds", "Until the first token", ("release",), buckets=_SECONDS, registry=self._registry)
        self._total = Histogram(
            "llm_request_seconds", "Until the end of the answer", ("release",), buckets=_SECONDS, registry=self._registry
        )
        self._guardrails = Counter("llm_guardrail_hits", "Guardrail rules that fired", ("rule",), registry=self._registry)
        self._share = Gauge("llm_traffic_share", "Share of requests per release", ("release",), registry=self._registry)

    def finished(self, exchange: Exchange) -> None:
        release = exchange.route.release
        self._requests.labels(release, exchange.finish).inc()
        self._total.labels(release).observe(exchange.clock())
        if "first_token" in exchange.seconds:
            self._first.labels(release).observe(exchange.seconds["first_token"])
        for kind, count in exchange.usage.items():
            self._tokens.labels(release, kind.removesuffix("_tokens")).inc(count)
        for rule in exchange.guardrails:
            self._guardrails.labels(rule).inc()

    def traffic(self, weights: Mapping[str, float]) -> None:
        self._share.clear()
        for release, share in weights.items():
            self._share.labels(release).set(share)

    def text(self) -> bytes:
        return generate_latest(self._registry)
