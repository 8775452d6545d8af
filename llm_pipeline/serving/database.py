"""The endpoint's database, SQLite or PostgreSQL: one metadata that every table of serving joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


def open_database(where: Path | str) -> sa.Engine:
    """The database of an endpoint's folder (SQLite), or at a SQLAlchemy URL; missing tables are made."""
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)
        db = sa.create_engine(f"sqlite:///{where / 'endpoint.db'}", connect_args={"timeout": 15})
        sa.event.listen(db, "connect", _pragmas)
    else:
        db = sa.create_engine(where, pool_pre_ping=True)
    metadata.create_all(db)
    return db


def _pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
