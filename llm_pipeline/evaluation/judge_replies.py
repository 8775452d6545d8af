"""Replies of a judge: kept by the hash of what was asked, and counted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What came back for one request; `error` says why nothing did."""

    text: str = ""
    finish_reason: str = ""
    error: str = ""
    cached: bool = False
    seconds: float = 0.0
    """Of the attempt that succeeded."""
    attempts: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class ReplyCache:
    """Replies by content hash in one SQLite file."""

    def __init__(self, path: Path | None) -> None:
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = sqlite3.connect(str(path) if path else ":memory:", timeout=30, isolation_level=None)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")

    def get(self, key: str) -> Reply | None:
        row = self._file.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return Reply(**json.loads(row[0]) | {"cached": True}) if row else None

    def put(self, key: str, reply: Reply) -> None:
        self._file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(vars(reply))))

    def close(self) -> None:
        self._file.close()


@dataclass
class Usage:
    """What a run cost."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: list[float] = field(default_factory=list)

    def count(self, reply: Reply) -> None:
        self.requests += 1
        self.cached += reply.cached
        if reply.cached:
            return
        self.retries += max(0, reply.attempts - 1)
        self.failed += bool(reply.error)
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        if not reply.error:
            self.seconds.append(reply.seconds)

    def summary(self, cost: Callable[[int, int], float]) -> dict[str, Any]:
        """Counts, cost and latencies; `cost` is that of tokens in and out."""
        times = sorted(self.seconds)
        quantiles = {f"seconds_p{q}": round(times[min(len(times) - 1, len(times) * q // 100)], 3) if times else None for q in (50, 95)}
        counts = {name: getattr(self, name) for name in ("requests", "cached", "retries", "failed", "tokens_in", "tokens_out")}
        return counts | {"cost": round(cost(self.tokens_in, self.tokens_out), 6)} | quantiles
