"""Requests to renew an engine process: it gets no more requests, finishes what it answers, ends, and another takes its place."""

from __future__ import annotations

import time

import sqlalchemy as sa

from llm_pipeline.serving.traffic.database import metadata

_drains = sa.Table("drains", metadata, sa.Column("engine", sa.Text, primary_key=True), sa.Column("at", sa.Float))


class Drains:
    """What was asked for, in an endpoint's database; a process made after it was asked is the new one already."""

    def __init__(self, db: sa.Engine) -> None:
        self._db = db

    def ask(self, engine: str) -> None:
        """Renew the engine process of this name."""
        with self._db.begin() as db:
            if not db.execute(sa.update(_drains).where(_drains.c.engine == engine).values(at=time.time())).rowcount:
                db.execute(sa.insert(_drains).values(engine=engine, at=time.time()))

    def asked(self) -> dict[str, float]:
        """Name -> when it was asked for."""
        with self._db.begin() as db:
            return {row.engine: row.at for row in db.execute(sa.select(_drains))}
