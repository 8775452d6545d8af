"""Where text comes from: the typed declarations of data/sources.yaml."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_pipeline.config import build, load_yaml
from llm_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from llm_pipeline.curation.support.bank import SupportConfig

FIRST_DAY = "2026-01-01"
DAYS = 14
"""How many days, from the first on, the default sources spread their documents over."""


@dataclass(frozen=True)
class Source:
    """One origin of text, with the right to use it; nothing is read from a source that does not declare that right."""

    name: str
    kind: Literal["generator", "python_docs", "files", "sql", "huggingface", "web", "interactions"]
    licence: str
    owner: str
    consent: str
    uri: str | None = None
    """Where it lies: a path or URI of files, a database URL, a dataset, a first page. `${NAME}` is taken from the environment."""
    policy: Literal["lenient", "strict"] = "lenient"
    """What damaged input does: lenient quarantines it and goes on, strict fails the day."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes that are kept; empty keeps every language."""
    limit: int | None = None
    description: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of its kind (`connectors`): of files those of fsspec, of the generator `SupportConfig`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ConfigError(f"source name: received {self.name!r}, expected lower-case letters, digits and '_', a letter first")
        for right in ("licence", "owner", "consent"):
            if not getattr(self, right).strip():
                raise ConfigError(f"source {self.name!r}: {right} is empty; a source must say by what right it is used")
        if self.kind in ("files", "sql", "huggingface", "web") and not self.uri:
            raise ConfigError(f"source {self.name!r}: kind {self.kind!r} needs a `uri`")
        if re.search(r"://[^/@\s]*:(?!\$\{)[^/@\s]+@", self.uri or ""):
            raise ConfigError(f"source {self.name!r}: the uri holds a password; put it into the environment and write ${{NAME}}")


def load_sources(project_file: Path, extra: Path | None = None) -> list[Source]:
    """The declared sources and those of `extra` (a home's own; it may be missing), which replace a declared one of the same name."""
    own = _read(extra) if extra is not None and extra.exists() else {}
    return list((_read(project_file) | own).values())


def _read(path: Path) -> dict[str, Source]:
    from llm_pipeline.curation.connectors import check

    entries = load_yaml(path) or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: received {type(entries).__name__}, expected a list of sources")
    sources = [build(Source, entry, f"{path}: source {number}") for number, entry in enumerate(entries, 1)]
    for source in sources:
        check(source)
    names = [source.name for source in sources]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: sources named twice: {', '.join(sorted(repeated))}")
    return dict(zip(names, sources, strict=True))


def generator_config(source: Source) -> SupportConfig:
    """The settings of a source of kind `generator`."""
    from llm_pipeline.curation.support.bank import SupportConfig

    return build(SupportConfig, dict(source.options), f"source {source.name!r}: options")


def spread(name: str, days: int = DAYS, first: str = FIRST_DAY) -> str:
    """The day that a document without date belongs to, by the hash of its name."""
    offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % days
    return (date.fromisoformat(first) + timedelta(days=offset)).isoformat()
