"""What the gateway counts, in Prometheus' text format. Labels are releases and outcomes: few, and never a client's text.

Several gateways behind one port: each leaves its numbers in a file that the others read, and every series says whose it is (label
`gateway`), so a scrape of the shared port sees them all, whichever process answers, and a process that ends takes only its own series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST

from llm_pipeline.records import Interaction
from llm_pipeline.serving.observability.tally import Board, Tally

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PARTS = {
    "queue": ("llm_queue_seconds", "Until the request was let in"),
    "guardrails": ("llm_guardrail_seconds", "Checking what was asked and answered"),
    "retrieval": ("llm_retrieval_seconds", "Finding passages"),
    "first_token": ("llm_first_token_seconds", "Until the first token"),
    "total": ("llm_request_seconds", "Until the end of the answer"),
}
"""The durations of an interaction that have a histogram."""


class Recorded(Protocol):
    """What has an interaction to show: the gateway's exchange."""

    def record(self) -> Interaction: ...


class InFlight:
    """How many requests are under way."""

    def __init__(self, tally: Tally) -> None:
        self._values = tally.values
        self._values[()] = 0.0

    def inc(self) -> None:
        self._values[()] += 1

    def dec(self) -> None:
        self._values[()] -= 1


class Metrics:
    """The numbers of one gateway process; with a `folder` those of the others that share it are shown, too."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, folder: Path | None = None) -> None:
        self._board = board = Board(folder)
        arm = ("release", "variant")
        self.in_flight = InFlight(board.gauge("llm_requests_in_flight", "Requests under way"))
        self._requests = board.counter(
            "llm_requests", "Requests that a release answered or failed", (*arm, "finish_reason", "status", "cache")
        )
        self._refused = board.counter("llm_refused", "Requests refused before a release saw them", ("status", "code"))
        self._tokens = board.counter("llm_tokens", "Tokens by kind", (*arm, "kind"))
        self._cost = board.counter("llm_cost", "Cost by the release's prices", arm)
        self._seconds = {part: board.durations(name, text, arm, SECONDS) for part, (name, text) in PARTS.items()}
        self._guardrails = board.counter("llm_guardrail_hits", "Guardrail rules that fired", ("rule", "action"))
        self._upstreams = board.counter("llm_upstream_attempts", "Calls of engines", ("upstream", "status"))
        self._feedback = board.counter("llm_feedback", "Opinions on answers", ("rating",))
        self._share = board.gauge("llm_traffic_share", "Share of requests per release", ("release",))

    def finished(self, done: Interaction | Recorded) -> None:
        """Count an interaction, however it ended."""
        row = done if isinstance(done, Interaction) else done.record()
        arm = (row.release, row.variant)
        self._requests.values[*arm, row.finish_reason, str(row.status), row.cache] += 1
        for part, seconds in row.seconds.items():
            if part in self._seconds:
                self._seconds[part].observe(arm, seconds)
        for kind, count in row.usage.items():
            self._tokens.values[*arm, kind.removesuffix("_tokens")] += count
        self._cost.values[arm] += row.cost
        actions = {event.get("rule"): event.get("action") for event in row.guardrail_events}
        for rule in row.guardrails:
            self._guardrails.values[rule, str(actions.get(rule) or "block")] += 1
        for attempt in row.upstreams:
            self._upstreams.values[str(attempt.get("name", "")), str(attempt.get("status", ""))] += 1

    def refused(self, status: int, code: str | None) -> None:
        """Count a request that got no interaction: no key, no budget, not understood."""
        self._refused.values[str(status), code or ""] += 1

    def opinion(self, rating: float | None) -> None:
        """Count a feedback."""
        self._feedback.values["none" if rating is None else "up" if rating > 0 else "down" if rating < 0 else "neutral",] += 1

    def traffic(self, weights: Mapping[str, float]) -> None:
        self._share.values.clear()
        self._share.values.update({(release,): share for release, share in weights.items()})

    def watch(self, name: str, text: str, label: str, read: Callable[[], Mapping[str, float]], *, counter: bool = True) -> None:
        """Show numbers that somebody else keeps: `watch("llm_spans", "...", "outcome", lambda: telemetry.counts)`."""
        self._board.watched(name, text, (label,), lambda: {(value,): number for value, number in read().items()}, counter=counter)

    def share(self) -> None:
        """Leave the numbers for the other gateways of the folder; it writes a small file, so call it now and then on a thread."""
        self._board.share()

    def text(self) -> bytes:
        return self._board.text()
