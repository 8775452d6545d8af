"""The landing folder of a source: what was fetched, by content and by day, so that a rerun needs no network and costs no traffic."""

from __future__ import annotations

import fcntl
import filecmp
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from llm_pipeline.curation.sources import FIRST_DAY, Source
from llm_pipeline.errors import ConfigError
from llm_pipeline.store import Home, write_atomically

_BUFFER = 8 << 20


def expanded(value: Any, where: str) -> Any:
    """`${NAME}` in strings becomes the environment variable, so that addresses and keys need not be written down."""
    if isinstance(value, Mapping):
        return {key: expanded(inner, where) for key, inner in value.items()}
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match.group(1), where), value)
    return value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise ConfigError(f"{where}: the environment variable {name} is not set")
    return os.environ[name]


@dataclass(frozen=True)
class Landing:
    """`<home>/landing/<source>`: folders by day, `.blobs` by SHA-256, and `.state.json` with what the connector must remember."""

    root: Path

    @staticmethod
    def of(source: Source, home: Home) -> Landing:
        return Landing(home.landing / source.name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time fetches from a source; days that wait find it landed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.root / ".state.json").read_text("utf-8")))
        except FileNotFoundError:
            return {}

    def save(self, state: Mapping[str, Any]) -> None:
        write_atomically(self.root / ".state.json", json.dumps(state, indent=1, sort_keys=True))

    def blob(self, sha256: str) -> Path:
        return self.root / ".blobs" / sha256[:2] / sha256

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A path to write a file to, on the same disk; what is left there afterwards is removed."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".fetch.") as folder:
            yield Path(folder) / "content"

    def keep(self, path: Path) -> str:
        """Move a file to its place by content and return its SHA-256; the first copy of the same content stays."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        blob = self.blob(sha256)
        if not blob.exists():
            blob.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, blob)
        return sha256

    def keep_bytes(self, data: bytes) -> str:
        with self.staging() as path:
            path.write_bytes(data)
            return self.keep(path)


def day_of(value: Any, otherwise: str) -> str:
    """The partition of a row by its date (or what ISO 8601 makes of it); what is older than the first partition belongs to that."""
    text = str(value)[:10]
    return max(text, FIRST_DAY) if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) else otherwise


class DayFiles:
    """Rows into one JSONL file per day, `<landing>/<day>/<name>.jsonl`; all appear when the block ends well, none otherwise."""

    def __init__(self, landing: Landing, name: str) -> None:
        self._landing, self._name = landing, name
        self._waiting: dict[str, list[str]] = {}
        self._size = 0
        self.rows = 0

    def __enter__(self) -> DayFiles:
        self._landing.root.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=self._landing.root, prefix=".rows.")
        return self

    def write(self, day: str, row: Mapping[str, Any]) -> None:
        line = json.dumps({**row, "day": day}, ensure_ascii=False, default=str) + "\n"
        self._waiting.setdefault(day, []).append(line)
        self._size += len(line)
        self.rows += 1
        if self._size > _BUFFER:
            self._flush()

    def _flush(self) -> None:
        for day, lines in self._waiting.items():
            with (Path(self._folder.name) / day).open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(lines)
        self._waiting, self._size = {}, 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._folder:
            if error is None:
                self._flush()
                for path in sorted(Path(self._folder.name).iterdir()):
                    target = self._landing.root / path.name / f"{self._name}.jsonl"
                    target.parent.mkdir(exist_ok=True)
                    if not (target.exists() and filecmp.cmp(path, target, shallow=False)):  # the same again keeps its time
                        os.replace(path, target)
