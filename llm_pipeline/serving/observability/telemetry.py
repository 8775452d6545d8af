"""Interactions as OpenTelemetry spans, sent to any OTLP/HTTP collector (MLflow is one) without ever holding up an answer.

Rows wait in a bounded queue; a thread makes spans of them (`spans.py`) and sends batches. What does not fit, or what no collector took, is
counted (`counts`) and gone: the interaction log is the record, traces are a copy. `trace_of` reads W3C Trace Context.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm_pipeline.errors import ConfigError
from llm_pipeline.records import Interaction
from llm_pipeline.serving.observability.otlp import Sender, encode
from llm_pipeline.serving.observability.spans import spans_of

log = logging.getLogger(__name__)
_TRACEPARENT = re.compile(r"(?:00(?=.{53}$)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
"""Version 00 is exactly this long; later ones may say more."""


class Trace(NamedTuple):
    """Where a request stands in a distributed trace (https://www.w3.org/TR/trace-context/)."""

    trace_id: str
    span_id: str
    parent_span_id: str = ""

    @property
    def header(self) -> str:
        """The `traceparent` for whatever is called on the request's behalf."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def trace_of(traceparent: str | None) -> Trace:
    """The client's trace with a new span in it; a new trace when it sent none or not a valid one."""
    match = _TRACEPARENT.fullmatch(traceparent.strip()) if traceparent else None
    if match:
        return Trace(match[1], _identity(8), match[2])
    both = _identity(24)
    return Trace(both[:32], both[32:])


def _identity(size: int) -> str:
    """Random hex digits, never all zero, not even the first or last 16."""
    return "1" + os.urandom(size).hex()[1:-1] + "1"


@dataclass(frozen=True)
class Collector:
    """Where spans go."""

    endpoint: str
    """Whole URL, such as http://127.0.0.1:4318/v1/traces."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Such as {"x-mlflow-experiment-id": "1"} for MLflow."""

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"telemetry collector: received {self.endpoint!r}, expected a URL such as http://127.0.0.1:4318/v1/traces")


@dataclass(frozen=True)
class TelemetrySettings:
    """Off while there is no collector."""

    collectors: tuple[Collector, ...] = ()
    content: bool = False
    """Whether spans carry the texts of messages and answers (scrubbed where the interaction log is)."""
    share: float = 1.0
    """Part of all traces that is sent, chosen by trace id so that all services choose the same."""
    most_waiting: int = 10_000
    batch: int = 256
    delay_seconds: float = 1.0
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or min(self.most_waiting, self.batch, self.delay_seconds, self.timeout_seconds) <= 0:
            raise ConfigError(f"telemetry: expected a share from 0 to 1 and positive sizes and times, received {self}")


class Telemetry:
    """Takes rows of the interaction log from any thread; `SegmentWriter(..., also=telemetry.record_all)` feeds it."""

    def __init__(self, settings: TelemetrySettings = TelemetrySettings(), service: str = "llm-pipeline-gateway") -> None:
        self._settings, self._service = settings, service
        self.counts = {"sent": 0, "dropped": 0, "failed": 0}
        """Interactions (per collector): taken by it, not queued because too many waited, refused or lost on the way."""
        self._workers = [_Worker(self._settings, collector, service, self.counts) for collector in settings.collectors]

    def record(self, row: Interaction | Mapping[str, Any]) -> None:
        """Queue one interaction; costs about a microsecond and never waits."""
        plain = vars(row) if isinstance(row, Interaction) else row
        if self._workers and int(plain["trace_id"][-14:] or "0", 16) < self._settings.share * (1 << 56):
            for worker in self._workers:
                worker.put(plain)

    def record_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.record(row)

    def close(self, seconds: float = 3.0) -> None:
        """Send what waits, for at most about `seconds`."""
        until = time.monotonic() + seconds
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.end(until)


class _Worker:
    """The queue and thread of one collector."""

    def __init__(self, settings: TelemetrySettings, collector: Collector, service: str, counts: dict[str, int]) -> None:
        self._settings, self._collector, self._service, self._counts = settings, collector, service, counts
        self._queue: queue.Queue[tuple[Mapping[str, Any], int] | None] = queue.Queue(settings.most_waiting)
        self._stopping = threading.Event()
        self._sender = Sender(collector.endpoint, collector.headers, settings.timeout_seconds)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def put(self, row: Mapping[str, Any]) -> None:
        try:
            self._queue.put_nowait((row, time.time_ns()))
        except queue.Full:
            self._count("dropped", 1)

    def stop(self) -> None:
        self._stopping.set()
        with suppress(queue.Full):  # the thread sees the event at the end of its batch
            self._queue.put_nowait(None)

    def end(self, until: float) -> None:
        self._thread.join(max(0.0, until - time.monotonic()))
        self._sender.end()
        self._thread.join(1.0)

    def _run(self) -> None:
        while batch := self._batch():
            self._send(batch)

    def _batch(self) -> list[tuple[Mapping[str, Any], int]]:
        """The next rows: as many as come within the delay after the first; none when it is time to end."""
        if self._stopping.is_set() and self._queue.empty():
            return []
        if (item := self._queue.get()) is None:
            return self._rest()
        batch, until = [item], time.monotonic() + self._settings.delay_seconds
        while len(batch) < self._settings.batch and not self._stopping.is_set() and (left := until - time.monotonic()) > 0:
            try:
                item = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if item is None:
                break
            batch.append(item)
        return batch

    def _rest(self) -> list[tuple[Mapping[str, Any], int]]:
        batch: list[tuple[Mapping[str, Any], int]] = []
        while not self._queue.empty() and len(batch) < self._settings.batch:
            if (item := self._queue.get_nowait()) is not None:
                batch.append(item)
        return batch

    def _send(self, batch: Sequence[tuple[Mapping[str, Any], int]]) -> None:
        try:
            spans = [span for row, ended in batch for span in spans_of(row, ended, content=self._settings.content)]
            failure = self._sender.send(encode(spans, self._service))
        except Exception as error:  # whatever a row holds, the thread must live on
            failure = repr(error)
        if failure is not None:
            log.error("spans could not be sent to %s: %s", self._collector.endpoint, failure)
        self._count("sent" if failure is None else "failed", len(batch))

    def _count(self, outcome: str, number: int) -> None:
        with self._lock:
            self._counts[outcome] += number
