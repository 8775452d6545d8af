"""Floods: a day on which one source sends far more than ever before, much of it alike (poison is cheap to make in numbers)."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zlib import crc32

import pyarrow as pa
import pyarrow.compute as pc

from llm_pipeline.curation.poison_policy import BurstPolicy, Finding

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches

Day = tuple[str, str]
"""A source and a day."""
MOST = 1_000_000
"""Outlines that are counted at once; beyond, those seen once are forgotten (lossy counting, Manku and Motwani 2002)."""
_WORD = re.compile(r"[^\W\d_]+")
_LOOKED_AT = 2000


@dataclass(frozen=True)
class Bursts:
    """How many alike documents each flood has: by (source, day) and outline."""

    floods: Mapping[Day, Mapping[int, int]] = field(default_factory=dict)

    def findings(self, table: pa.Table) -> dict[int, Finding]:
        if not self.floods:
            return {}
        found: dict[int, Finding] = {}
        for row, (day, text) in enumerate(zip(_days(table), table["text"].to_pylist(), strict=True)):
            alike = self.floods.get(day, {}).get(_outline(text or "")) if day in self.floods else None
            if alike:
                found[row] = Finding("burst", float(alike), "one of so many alike documents in a sudden flood from one source")
        return found


def find_bursts(batches: Batches, policy: BurstPolicy) -> Bursts:
    """Needs a day and a source (or the host of a URI) by document; only days that stand out are looked into."""
    first = next(batches(), None)
    if first is None or not _judgeable(first) or not _has_history(batches, policy):
        return Bursts()
    sizes: Counter[Day] = Counter()
    for table in batches():
        sizes.update(_days(table))
    sudden = _sudden(sizes, policy)
    if not sudden:
        return Bursts()
    outlines: Counter[tuple[Day, int]] = Counter()
    for table in batches():
        rows = zip(_days(table), table["text"].to_pylist(), strict=True)
        outlines.update((day, _outline(text or "")) for day, text in rows if day in sudden)
        if len(outlines) > MOST:
            outlines = Counter({key: n for key, n in outlines.items() if n > 1})
    floods: dict[Day, dict[int, int]] = defaultdict(dict)
    for (day, outline), n in outlines.items():
        if n >= policy.support:
            floods[day][outline] = n
    return Bursts(floods)


def _has_history(batches: Batches, policy: BurstPolicy) -> bool:
    """Whether there are more days than a source must have before one is judged; reads no further than needed."""
    days: set[Any] = set()
    return any(len(days := days.union(pc.unique(table["day"]).to_pylist())) > policy.history for table in batches())


def _judgeable(table: pa.Table) -> bool:
    return "day" in table.column_names and bool({"source", "uri"} & set(table.column_names))


def _days(table: pa.Table) -> list[Day]:
    """Where each document came from, and when; of web addresses the host counts, since a crawl is one source of many."""
    names = table.column_names
    uris = table["uri"].to_pylist() if "uri" in names else [""] * table.num_rows
    sources = table["source"].to_pylist() if "source" in names else [""] * table.num_rows
    return [
        (_host(str(uri or "")) or str(source), str(day)) for uri, source, day in zip(uris, sources, table["day"].to_pylist(), strict=True)
    ]


def _host(uri: str) -> str:
    return urlsplit(uri).netloc if uri.startswith(("http://", "https://")) else ""


def _sudden(sizes: Mapping[Day, int], policy: BurstPolicy) -> set[Day]:
    """Days far above the median of their source's days before."""
    by_source: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for (source, day), n in sorted(sizes.items()):
        by_source[source].append((day, n))
    found = set()
    for source, days in by_source.items():
        for at in range(policy.history, len(days)):
            usual = statistics.median(n for _, n in days[:at])
            if days[at][1] >= policy.support and days[at][1] > policy.factor * usual:
                found.add((source, days[at][0]))
    return found


def _outline(text: str) -> int:
    """Equal for documents that differ in little: the four rarest-hashed words of the beginning (a sketch of four minima, Broder 1997)."""
    words = sorted({crc32(word.encode()) for word in _WORD.findall(text[:_LOOKED_AT].lower())})
    return hash(tuple(words[:4]))
