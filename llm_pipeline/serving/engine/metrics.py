"""What an engine worker counts, in Prometheus' text format; requests and tokens by outcome and kind, never a client's text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from llm_pipeline.serving.engine.generation import Model

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class EngineMetrics:
    """One registry per worker."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, batcher: Model) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        gauges = {
            "llm_engine_requests_running": ("Choices being generated", lambda: batcher.places.running),
            "llm_engine_requests_waiting": ("Choices waiting for a place", lambda: batcher.places.waiting),
            "llm_engine_kv_pages": ("Pages of the key-value cache", lambda: batcher.pages),
            "llm_engine_kv_pages_used": ("Pages in use", lambda: batcher.pages_used),
            "llm_engine_alive": ("1 while the generation thread runs", lambda: batcher.alive),
        }
        for name, (description, read) in gauges.items():
            Gauge(name, description, registry=registry).set_function(read)
        self.requests = Counter("llm_engine_requests", "Requests by outcome", ("outcome",), registry=registry)
        self.tokens = Counter("llm_engine_tokens", "Tokens by kind", ("kind",), registry=registry)
        self.first = Histogram("llm_engine_first_token_seconds", "Until the first token", buckets=_SECONDS, registry=registry)
        self.total = Histogram("llm_engine_request_seconds", "Until the end of the answer", buckets=_SECONDS, registry=registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
