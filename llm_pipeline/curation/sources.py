"""Where text comes from: the typed declarations of data/sources.yaml, and bringing one day of a source to the landing folder."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from llm_pipeline.config import build, load_yaml
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.store import Home

if TYPE_CHECKING:
    from llm_pipeline.curation.support.bank import SupportConfig

FIRST_DAY = "2026-01-01"
DAYS = 14
"""How many days, from the first on, the default sources spread their documents over."""


@dataclass(frozen=True)
class Source:
    """One origin of text, with the right to use it; nothing is read from a source that does not declare that right."""

    name: str
    kind: Literal["generator", "python_docs", "files"]
    licence: str
    owner: str
    consent: str
    uri: str | None = None
    """Where `files` lie: a file or folder, or any URI that fsspec knows."""
    policy: Literal["lenient", "strict"] = "lenient"
    """What damaged input does: lenient quarantines it and goes on, strict fails the day."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes that are kept; empty keeps every language."""
    limit: int | None = None
    description: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generator (`SupportConfig`)."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ConfigError(f"source name: received {self.name!r}, expected lower-case letters, digits and '_', a letter first")
        for right in ("licence", "owner", "consent"):
            if not getattr(self, right).strip():
                raise ConfigError(f"source {self.name!r}: {right} is empty; a source must say by what right it is used")
        if self.kind == "files" and not self.uri:
            raise ConfigError(f"source {self.name!r}: kind 'files' needs a `uri`")


def load_sources(project_file: Path, extra: Path | None = None) -> list[Source]:
    """The declared sources and those of `extra` (a home's own; it may be missing), which replace a declared one of the same name."""
    own = _read(extra) if extra is not None and extra.exists() else {}
    return list((_read(project_file) | own).values())


def _read(path: Path) -> dict[str, Source]:
    entries = load_yaml(path) or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: received {type(entries).__name__}, expected a list of sources")
    sources = [build(Source, entry, f"{path}: source {number}") for number, entry in enumerate(entries, 1)]
    names = [source.name for source in sources]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: sources named twice: {', '.join(sorted(repeated))}")
    return dict(zip(names, sources, strict=True))


def land(source: Source, home: Home, day: str) -> Path:
    """Bring what `source` has for `day` to this machine and return the file or folder to read (it may not exist: no rows)."""
    if source.kind == "generator":
        return _generate(source, home, day)
    if source.kind == "python_docs":
        return _land_python_docs(home.landing / source.name, source.limit) / day
    return local_path(source, home)


def local_path(source: Source, home: Home) -> Path:
    """The files of a `files` source on this machine; a remote URI is copied to the landing folder once."""
    assert source.uri
    parts = urlsplit(source.uri)
    if not parts.scheme or len(parts.scheme) == 1:
        path = Path(source.uri).expanduser().resolve()
    elif parts.scheme == "file":
        path = Path(parts.path).resolve()
    else:
        path = _fetch(source.uri, home.landing / source.name)
    if not path.exists():
        raise InputError(f"source {source.name!r}: uri {source.uri!r}: no such file or folder ({path})")
    return path


def _fetch(uri: str, folder: Path) -> Path:
    fsspec: Any = importlib.import_module("fsspec")

    files, path = fsspec.core.url_to_fs(uri)
    target = folder / Path(path).name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        staging = tempfile.mkdtemp(dir=folder, prefix=".fetch.")
        files.get(path, f"{staging}/{target.name}", recursive=True)
        os.replace(f"{staging}/{target.name}", target)
    return target


def generator_config(source: Source) -> SupportConfig:
    """The settings of a source of kind `generator`."""
    from llm_pipeline.curation.support.bank import SupportConfig

    return build(SupportConfig, dict(source.options), f"source {source.name!r}: options")


def _generate(source: Source, home: Home, day: str) -> Path:
    generator: Any = importlib.import_module("llm_pipeline.curation.support.generator")
    config = generator_config(source)
    folder = home.landing / source.name / day
    if day in config.all_days:
        generator.generate_day(config, day, home.landing, home.root / "ground_truth")
        _date_files(folder, day)
    return folder


def _date_files(folder: Path, day: str) -> None:
    """Simulated documents arrive at midnight of their day, so that provenance is the same on every rerun."""
    midnight = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (midnight, midnight), follow_symlinks=False)


def spread(name: str, days: int = DAYS, first: str = FIRST_DAY) -> str:
    """The day that a document without date belongs to, by the hash of its name."""
    offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % days
    return (date.fromisoformat(first) + timedelta(days=offset)).isoformat()


def _land_python_docs(folder: Path, limit: int | None) -> Path:
    """Write all days once (parsing the standard library takes seconds); concurrent days wait for the first."""
    from llm_pipeline.curation.python_docs import doc_strings

    folder.mkdir(parents=True, exist_ok=True)
    done = folder / ".complete"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == str(limit):
            return folder
        docs = sorted(doc_strings(), key=lambda doc: hashlib.sha256(doc.name.encode()).digest())[:limit]
        by_day: dict[str, list[Mapping[str, str]]] = {}
        for doc in sorted(docs, key=lambda doc: doc.name):
            row = {"id": doc.name, "uri": f"python://{doc.name}", "kind": "doc", "title": doc.name, "text": doc.text}
            by_day.setdefault(spread(doc.name), []).append(row)
        for day, rows in by_day.items():
            _write_day(folder / day, day, rows)
        done.write_text(str(limit))
    return folder


def _write_day(folder: Path, day: str, rows: Sequence[Mapping[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "documentation.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    _date_files(folder, day)
