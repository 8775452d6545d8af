"""Rows of a SQL query, from where the last one ended: SQLAlchemy, streamed, the watermark kept beside what was fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.curation.connectors.landing import DayFiles, Landing, day_of, expanded
from llm_pipeline.curation.connectors.retry import retrying
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.store import Home, content_hash

_FETCHED_AT_A_TIME = 1000
Mark = int | float | str | datetime | date | Decimal


@dataclass(frozen=True)
class SqlOptions:
    """A query whose `:watermark` is the greatest value of the column `watermark` that was seen so far, at first `start`."""

    query: str
    watermark: str | None = None
    start: int | float | str | None = None
    day: str | None = None
    """The column with the date of a row; without it a row belongs to the day that it was fetched for."""

    def __post_init__(self) -> None:
        asks = re.search(r"(?<!:):watermark\b", self.query) is not None
        if asks != (self.watermark is not None) or asks != (self.start is not None):
            raise ConfigError("query: `:watermark` in it, the column `watermark` and the value `start` go together; received only some")


def land(source: Source, home: Home, day: str) -> Path:
    """Fetch what is new since the last day that was fetched; a day that was fetched before is read again as it was."""
    landing = Landing.of(source, home)
    with landing.lock():
        state = landing.state()
        if day not in state.get("days", []):
            mark = _fetch(source, landing, day, state.get("watermark"))
            landing.save({"days": sorted([*state.get("days", []), day]), "watermark": mark})
    return landing.root / day


def _fetch(source: Source, landing: Landing, day: str, known: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    from sqlalchemy.exc import SQLAlchemyError

    where = f"source {source.name!r}"
    options = build(SqlOptions, dict(source.options), f"{where}: options")
    assert source.uri
    url = expanded(source.uri, f"{where}: uri")
    mark = _unpacked(known) if known else options.start
    segment = f"rows-{content_hash(options.query, str(mark), day)}"
    try:
        return _packed(retrying(lambda: _rows(url, options, mark, DayFiles(landing, segment), source.name, day), where))
    except SQLAlchemyError as error:
        raise InputError(f"{where}: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _rows(url: str, options: SqlOptions, mark: Mark | None, files: DayFiles, name: str, day: str) -> Mark | None:
    """Write the rows of the query by day; the greatest watermark among them."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg2://", 1))  # the driver that is installed
    try:
        with engine.connect() as connection, files:
            query = sqlalchemy.text(options.query).bindparams(**({"watermark": mark} if options.watermark else {}))
            result = connection.execution_options(stream_results=True, yield_per=_FETCHED_AT_A_TIME).execute(query)
            if missing := {column for column in (options.watermark, options.day) if column} - set(result.keys()):
                raise ConfigError(f"source {name!r}: no column {', '.join(sorted(missing))}; the query gives {', '.join(result.keys())}")
            for row in result.mappings():
                at = row[options.watermark] if options.watermark else None
                mark = at if at is not None and (mark is None or at > mark) else mark
                files.write(
                    day_of(row[options.day], day) if options.day else day, {"uri": f"{name}://{row['id']}" if "id" in row else None, **row}
                )
    finally:
        engine.dispose()
    return mark


_TYPES: dict[str, Any] = {"datetime": datetime.fromisoformat, "date": date.fromisoformat, "Decimal": Decimal}


def _packed(mark: Mark | None) -> dict[str, Any] | None:
    """A watermark as JSON with its type, so that the database compares what it gave."""
    kind = type(mark).__name__
    return None if mark is None else {"type": kind, "value": str(mark) if kind in _TYPES else mark}


def _unpacked(mark: Mapping[str, Any]) -> Mark:
    return _TYPES.get(mark["type"], lambda value: value)(mark["value"])
