"""The shared side of limits: which gateway process holds how many units of which key, in the endpoint's database.

A unit is a request, a token, a place among the concurrent requests, or a millionth of cost. What was used in the month plus what
all processes hold never grows beyond the limit, so processes that only spend what they hold never exceed it together. A process
that was not heard of for `DEAD_SECONDS` gives back what it held: places at once, units of a minute a minute later; of a month's
budget nobody knows what it still spent, so all of it counts as used.
"""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llm_pipeline.serving.traffic.database import metadata

REQUESTS, TOKENS, CONCURRENT, MONTH_TOKENS, MONTH_COST = KINDS = ("requests", "tokens", "concurrent", "month_tokens", "month_cost")
MONTHLY = (MONTH_TOKENS, MONTH_COST)
WINDOW_SECONDS = {REQUESTS: 60.0, TOKENS: 60.0}
MICRO = 1_000_000
DEAD_SECONDS = 30.0
SHARE = 8
"""Beyond what requests wait for, a process is lent at most this part of what is left: leases shrink near the limit."""

_held = sa.Table(
    "limit_leases", metadata,
    sa.Column("key", sa.Integer, primary_key=True), sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True), sa.Column("units", sa.BigInteger), sa.Column("frees_at", sa.Float),
    sa.Column("seen_at", sa.Float),
)  # fmt: skip
_used = sa.Table(
    "limit_usage", metadata,
    sa.Column("key", sa.Integer, primary_key=True), sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("month", sa.Text, primary_key=True), sa.Column("units", sa.BigInteger),
)  # fmt: skip
_lock = sa.Table("limit_lock", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", sa.Float))


@dataclass(frozen=True)
class Order:
    """What a process reports and wants of one key and kind."""

    key: int
    kind: str
    limit: int
    busy: int
    """Units in use: by requests under way, or used less than a minute ago."""
    stock: int
    """Units held for requests to come."""
    spent: int = 0
    """Monthly kinds: units used up since the last order that was carried out."""
    needs: tuple[int, ...] = ()
    """What waiting requests lack, each of them whole or not at all."""
    extra: int = 0
    """What it would like to have in stock besides."""
    frees_at: float | None = None

    @property
    def news(self) -> bool:
        """Whether carrying it out once more would change something."""
        return bool(self.needs or self.spent or self.extra)


@dataclass(frozen=True)
class Answer:
    granted: int
    left: int
    """What nobody holds after the grant."""
    frees_at: float | None
    """When the next unit of a minute comes back in some process."""
    lost: bool = False
    """The process had been given up: its stock is no longer its own."""


class Ledger:
    """One process's access to the shared counters; every method blocks, so it belongs on a thread."""

    def __init__(self, db: sa.Engine, owner: str) -> None:
        self._db, self._owner = db, owner
        self._reaped_at, self._begun = 0.0, False

    def sync(self, orders: Sequence[Order], now: float) -> list[Answer]:
        """Carry out `orders` in one transaction; all processes' transactions follow one another."""
        if not self._begun:
            with suppress(sa.exc.IntegrityError), self._db.begin() as db:
                db.execute(sa.insert(_lock).values(id=1, at=0.0))
            self._begun = True
        with self._db.begin() as db:
            db.execute(sa.update(_lock).where(_lock.c.id == 1).values(at=now))
            db.execute(sa.update(_held).where(_held.c.owner == self._owner).values(seen_at=now))
            if now - self._reaped_at > 1:
                self._reap(db, now)
                self._reaped_at = now
            if not orders:
                return []
            rows, used = self._read(db, {order.key for order in orders}, now)
            answers = [self._answer(order, rows.get((order.key, order.kind), {}), used) for order in orders]
            self._write(db, orders, answers, now)
        return answers

    def _read(self, db: sa.Connection, keys: set[int], now: float) -> tuple[dict[tuple[int, str], dict[str, Any]], dict[Any, int]]:
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        for row in db.execute(sa.select(_held).where(_held.c.key.in_(keys))):
            rows.setdefault((row.key, row.kind), {})[row.owner] = row
        query = sa.select(_used).where(_used.c.key.in_(keys), _used.c.month == month_of(now))
        return rows, {(row.key, row.kind): row.units for row in db.execute(query)}

    def _answer(self, order: Order, rows: dict[str, Any], used: dict[Any, int]) -> Answer:
        others = [row for owner, row in rows.items() if owner != self._owner]
        place = (order.key, order.kind)
        used[place] = used.get(place, 0) + order.spent
        lost = self._owner not in rows
        left = order.limit - used[place] - sum(row.units for row in others) - order.busy - (0 if lost else order.stock)
        granted = 0
        for need in order.needs:
            if need <= left - granted:
                granted += need
        granted += max(0, min(order.extra, (left - granted) // SHARE))
        frees = [at for at in (order.frees_at, *(row.frees_at for row in others)) if at is not None]
        return Answer(granted, left - granted, min(frees, default=None), lost)

    def _write(self, db: sa.Connection, orders: Sequence[Order], answers: Sequence[Answer], now: float) -> None:
        held = [
            {"key": o.key, "kind": o.kind, "owner": self._owner, "frees_at": o.frees_at, "seen_at": now}
            | {"units": o.busy + (0 if a.lost else o.stock) + a.granted}
            for o, a in zip(orders, answers, strict=True)
        ]
        db.execute(_HOLD, held)
        if not all(row["units"] for row in held):
            db.execute(sa.delete(_held).where(_held.c.owner == self._owner, _held.c.units == 0))
        _spend(db, ((order.key, order.kind, order.spent) for order in orders), now)

    def _reap(self, db: sa.Connection, now: float) -> None:
        """Give back what processes held that were not heard of."""
        silent = list(db.execute(sa.select(_held).where(_held.c.seen_at < now - DEAD_SECONDS)))
        gone = [row for row in silent if row.seen_at < now - DEAD_SECONDS - WINDOW_SECONDS.get(row.kind, 0)]
        _spend(db, ((row.key, row.kind, row.units) for row in gone if row.kind in MONTHLY), now)
        for row in gone:
            db.execute(sa.delete(_held).where(_held.c.key == row.key, _held.c.kind == row.kind, _held.c.owner == row.owner))


def used(db: sa.Engine, key: int, now: float) -> dict[str, int]:
    """What is known to be used of a key's monthly budgets; what processes hold is not in it."""
    with db.begin() as connection:
        query = sa.select(_used.c.kind, _used.c.units).where(_used.c.key == key, _used.c.month == month_of(now))
        return {row.kind: row.units for row in connection.execute(query)}


def month_of(now: float) -> str:
    return time.strftime("%Y-%m", time.gmtime(now))


def month_ends(now: float) -> float:
    year, month = time.gmtime(now)[:2]
    return float(timegm((year + month // 12, month % 12 + 1, 1, 0, 0, 0)))


def _spend(db: sa.Connection, spent: Iterable[tuple[int, str, int]], now: float) -> None:
    rows = [{"key": key, "kind": kind, "month": month_of(now), "units": units} for key, kind, units in spent if units]
    if rows:
        db.execute(_SPEND, rows)


_HOLD = sa.text(
    "INSERT INTO limit_leases VALUES (:key, :kind, :owner, :units, :frees_at, :seen_at) ON CONFLICT (key, kind, owner)"
    " DO UPDATE SET units = excluded.units, frees_at = excluded.frees_at, seen_at = excluded.seen_at"
)
_SPEND = sa.text(
    "INSERT INTO limit_usage VALUES (:key, :kind, :month, :units) ON CONFLICT (key, kind, month)"
    " DO UPDATE SET units = limit_usage.units + excluded.units"
)
