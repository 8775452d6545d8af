"""The endpoint's database, SQLite or PostgreSQL: one metadata that every table of serving joins.

An endpoint's folder says which: `endpoint.json` may name a SQLAlchemy URL under `database`; without one it is a file in the folder.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

log = logging.getLogger(__name__)
metadata = sa.MetaData()
CONNECT_SECONDS = 3
STATEMENT_SECONDS = 10


def open_database(where: Path | str) -> sa.Engine:
    """The database of an endpoint's folder, or the one at a SQLAlchemy URL; missing tables and columns are made.

    One that cannot be reached now is opened all the same: its first use says so.
    """
    url = _url_of(where) if isinstance(where, Path) else where
    url = url.replace("postgresql://", "postgresql+psycopg2://", 1)  # the driver that is installed
    if url.startswith("sqlite"):
        db = sa.create_engine(url, connect_args={"timeout": 15})
        sa.event.listen(db, "connect", _pragmas)
    else:
        patience = {"connect_timeout": CONNECT_SECONDS, "options": f"-c statement_timeout={STATEMENT_SECONDS * 1000}"}
        db = sa.create_engine(url, pool_pre_ping=True, pool_timeout=CONNECT_SECONDS, connect_args=patience)
    try:
        _prepare(db)
    except DBAPIError:  # another process made the same tables in the same moment, or nothing answers
        try:
            _prepare(db)
        except DBAPIError as error:
            log.warning("the endpoint's database cannot be reached: %s", error.orig)
    return db


def settings(folder: Path) -> dict[str, Any]:
    """What an endpoint's folder says of itself: address, keys for local use, number of gateways, database."""
    try:
        found = json.loads((folder / "endpoint.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _url_of(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(settings(folder).get("database") or f"sqlite:///{folder / 'endpoint.db'}")


def _prepare(db: sa.Engine) -> None:
    with db.begin() as connection:
        metadata.create_all(connection)
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            there = {column["name"] for column in inspector.get_columns(table.name)}
            for column in (column for column in table.columns if column.name not in there):
                words = sa.schema.CreateColumn(column).compile(dialect=db.dialect)
                connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN {words}"))


def _pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
