"""Who used how much, what it cost, and how long it took: per release and key, from the interaction log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llm_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "usage_report"
_COLUMNS: list[tuple[str, Any]] = [
    ("release", pa.string()),
    ("key", pa.string()),
    ("requests", pa.int64()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("cost", pa.float64()),
    ("cost_per_request", pa.float64()),
    ("cache_hits", pa.int64()),
    ("first_token_p50", pa.float64()),
    ("first_token_p95", pa.float64()),
    ("total_p50", pa.float64()),
    ("total_p95", pa.float64()),
]
SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class Price:
    """Cost of a million tokens, in whatever currency one thinks in."""

    prompt: float = 0.10
    completion: float = 0.40

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0:
            raise ConfigError(f"price per million tokens: expected numbers >= 0, received {self}")

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


DEFAULT_PRICE = Price()
_HITS = ("hit", "semantic")


def usage_rows(interactions: Sequence[Mapping[str, Any]], price: Price = DEFAULT_PRICE) -> list[dict[str, Any]]:
    """One row per release and key, most requests first; latencies are in seconds.

    The cost is what the gateway recorded by the release's prices; `price` where it recorded none and a model was asked.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in interactions:
        groups.setdefault((str(item["release"]), str(item["key"])), []).append(item)
    rows = [_row(release, key, items, price) for (release, key), items in groups.items()]
    return sorted(rows, key=lambda row: (-row["requests"], row["release"], row["key"]))


def usage_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)


def latency(interactions: Sequence[Mapping[str, Any]], name: str, percentile: float) -> float | None:
    """Percentile of one of the logged durations (`total`, `first_token`, ...), None when no request logged it."""
    values = [seconds[name] for item in interactions if (seconds := json.loads(item["seconds"])).get(name) is not None]
    return float(np.percentile(values, percentile)) if values else None


def usage_figure(interactions: Sequence[Mapping[str, Any]]) -> Figure:
    """Distribution of time to first token and of total time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6))
    axes = figure.subplots()
    for name in ("first_token", "total"):
        values = [v for item in interactions if (v := json.loads(item["seconds"]).get(name)) is not None]
        if values:
            axes.hist(values, bins=40, histtype="step", label=name)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests")
    axes.legend(fontsize=7)
    return figure


def _row(release: str, key: str, items: Sequence[Mapping[str, Any]], price: Price) -> dict[str, Any]:
    usages = [json.loads(item["usage"]) for item in items]
    prompt = sum(int(usage.get("prompt_tokens") or 0) for usage in usages)
    completion = sum(int(usage.get("completion_tokens") or 0) for usage in usages)
    cost = sum(_cost(item, usage, price) for item, usage in zip(items, usages, strict=True))
    return {
        "release": release,
        "key": key,
        "requests": len(items),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cost": cost,
        "cost_per_request": cost / len(items),
        "cache_hits": sum(item.get("cache") in _HITS for item in items),
        "first_token_p50": latency(items, "first_token", 50),
        "first_token_p95": latency(items, "first_token", 95),
        "total_p50": latency(items, "total", 50),
        "total_p95": latency(items, "total", 95),
    }


def _cost(item: Mapping[str, Any], usage: Mapping[str, Any], price: Price) -> float:
    if item.get("cost") or item.get("cache") in _HITS:
        return float(item.get("cost") or 0.0)
    return price.of(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
