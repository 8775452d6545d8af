"""Bringing what a source has for one day to this machine: one small module per kind of source, all with `land(source, home, day)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.curation.connectors import generated, hub, interactions, objects, sql
from llm_pipeline.curation.connectors.objects import local_path
from llm_pipeline.curation.connectors.web import WebOptions
from llm_pipeline.curation.connectors.web import land as land_web
from llm_pipeline.curation.sources import Source
from llm_pipeline.store import Home

__all__ = ["check", "land", "local_path"]

_LANDERS: dict[str, Callable[[Source, Home, str], Path]] = {
    "generator": generated.land_bank,
    "python_docs": generated.land_python_docs,
    "files": objects.land,
    "sql": sql.land,
    "huggingface": hub.land,
    "web": land_web,
    "interactions": interactions.land,
}
_OPTIONS: dict[str, type[Any]] = {
    "sql": sql.SqlOptions,
    "huggingface": hub.HubOptions,
    "web": WebOptions,
    "interactions": interactions.InteractionOptions,
}


def land(source: Source, home: Home, day: str) -> Path:
    """Bring what `source` has for `day` to this machine and return the file or folder to read (it may not exist: no rows)."""
    return _LANDERS[source.kind](source, home, day)


def check(source: Source) -> None:
    """Raise ConfigError when the options of a source are not those of its kind."""
    if source.kind in _OPTIONS:
        build(_OPTIONS[source.kind], dict(source.options), f"source {source.name!r}: options")
