"""Counters and histograms that cost a microsecond to count, shown in Prometheus' text format when asked, over several processes.

prometheus-client's own take about 3 microseconds each under a lock, 45 for one interaction; these are written by the event loop alone.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


@dataclass
class Tally:
    """A counter or gauge: a number for each combination of label values."""

    name: str
    text: str
    labels: Labels = ()
    kind: Literal["counter", "gauge"] = "counter"
    read: Callable[[], Mapping[Labels, float]] | None = None
    """Where the numbers are, when somebody else keeps them."""
    values: defaultdict[Labels, float] = field(default_factory=lambda: defaultdict(float))

    def rows(self) -> list[tuple[Labels, Any]]:
        return list((self.read() if self.read else self.values).items())


@dataclass
class Durations:
    """A histogram over seconds: for each combination of label values the counts per bucket, the last one open, then the sum."""

    name: str
    text: str
    labels: Labels
    bounds: Sequence[float]
    kind: Literal["histogram"] = "histogram"
    values: dict[Labels, list[float]] = field(default_factory=dict)

    def observe(self, labels: Labels, seconds: float) -> None:
        row = self.values.get(labels)
        if row is None:
            row = self.values[labels] = [0.0] * (len(self.bounds) + 2)
        row[bisect_left(self.bounds, seconds)] += 1
        row[-1] += seconds

    def rows(self) -> list[tuple[Labels, Any]]:
        return [(labels, list(row)) for labels, row in list(self.values.items())]


Family = Tally | Durations


class Board:
    """All families of a process, and with a `folder` those of the other processes that write there."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder, self._families = folder, list[Family]()

    def counter(self, name: str, text: str, labels: Labels = ()) -> Tally:
        return self._added(Tally(name, text, labels))

    def gauge(self, name: str, text: str, labels: Labels = ()) -> Tally:
        return self._added(Tally(name, text, labels, "gauge"))

    def durations(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> Durations:
        family = Durations(name, text, labels, bounds)
        self._families.append(family)
        return family

    def watched(self, name: str, text: str, labels: Labels, read: Callable[[], Mapping[Labels, float]], *, counter: bool) -> None:
        self._added(Tally(name, text, labels, "counter" if counter else "gauge", read))

    def _added(self, family: Tally) -> Tally:
        self._families.append(family)
        return family

    def share(self) -> None:
        """Leave this process's numbers for the others; call it now and then, on a thread. They need not outlive the machine: no sync."""
        if self._folder is not None:
            path = self._folder / f"{_identity()}.json"
            with suppress(OSError):  # a full disk: the others go on showing what was there before
                self._folder.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".new").write_bytes(orjson.dumps(self._numbers()))
                path.with_suffix(".new").replace(path)

    def text(self) -> bytes:
        """Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(_Page(self._pages() if self._folder is not None else [("", self._numbers())], self._families))
        return generate_latest(registry)

    def _numbers(self) -> dict[str, list[tuple[Labels, Any]]]:
        return {family.name: family.rows() for family in self._families}

    def _pages(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Numbers by gateway; the files of processes that are gone are removed."""
        assert self._folder is not None
        yield str(os.getpid()), self._numbers()
        for path in sorted(self._folder.glob("*.json")):
            process = path.stem.partition("-")[0]
            if path.stem == _identity():
                continue
            if path.stem != _identity(int(process)):
                path.unlink(missing_ok=True)
                continue
            try:
                yield process, orjson.loads(path.read_bytes())
            except (OSError, ValueError):
                continue


def _identity(process: int | None = None) -> str:
    """The process and when it began, so that a number used anew is not taken for the old one; empty when there is none."""
    try:
        found = psutil.Process(process)
        return f"{found.pid}-{int(found.create_time())}"
    except psutil.Error:
        return ""


class _Page(Collector):
    def __init__(self, pages: Iterable[tuple[str, Mapping[str, Any]]], families: Sequence[Family]) -> None:
        self._pages, self._families = list(pages), families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = _metric(family, [*family.labels, "gateway"] if self._pages[0][0] else list(family.labels))
            for gateway, numbers in self._pages:
                for labels, value in numbers.get(family.name, ()):
                    _add(metric, [*labels, gateway] if gateway else list(labels), value, family)
            yield metric


def _metric(family: Family, labels: Sequence[str]) -> Any:
    kinds: dict[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[family.kind](family.name, family.text, labels=labels)


def _add(metric: Any, labels: list[str], value: Any, family: Family) -> None:
    if isinstance(family, Tally):
        metric.add_metric(labels, value)
        return
    buckets, total = [], 0.0
    for bound, count in zip([*map(str, family.bounds), "+Inf"], value, strict=False):
        total += count
        buckets.append((bound, total))
    metric.add_metric(labels, buckets, value[-1])
