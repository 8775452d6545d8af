"""What the data was: the versions of every day of a table and of every artefact, the difference of two, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.errors import InputError, MissingError, near
from llm_pipeline.store import Artifacts, Home, content_hash, table_hash

SHOWN = 20
"""How many ids of each kind of change are named."""


@dataclass(frozen=True)
class Version:
    """One state of a day of a table (`version` counts from 1) or of an artefact (`version` is its id)."""

    name: str
    day: str | None
    version: str
    written: str
    rows: int | None
    content: str
    current: bool
    tags: tuple[str, ...] = ()
    """Names of a version, such as `snapshot-<id>` for the one that a corpus snapshot was made of."""


@dataclass(frozen=True)
class Difference:
    """Rows by id between two versions; `added`, `removed` and `changed` are counts, `examples` at most 20 ids of each."""

    name: str
    day: str | None
    old: str
    new: str
    added: int
    removed: int
    changed: int
    same: int
    examples: dict[str, list[str]]


def log(home: Home, name: str, day: str | None = None) -> list[Version]:
    """All versions of a table (of one day, or of all) or of a kind of artefact, oldest first."""
    if _is_artifact(home, name):
        return sorted(_artifact_versions(home.artifacts, name), key=lambda version: version.written)
    return [version for each in ([day] if day else home.lake.days(name)) for version in _day_versions(home, name, each)]


def diff(home: Home, name: str, old: str, new: str, day: str | None = None) -> Difference:
    """What changed by row id from version (or tag) `old` to `new`."""
    before, after = (_hashes(_rows(home, name, version, day)) for version in (old, new))
    found = {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(identity for identity in before.keys() & after.keys() if before[identity] != after[identity]),
    }
    counts = {kind: len(ids) for kind, ids in found.items()}
    same = len(before.keys() & after.keys()) - counts["changed"]
    return Difference(name, day, old, new, **counts, same=same, examples={kind: ids[:SHOWN] for kind, ids in found.items()})


def rollback(home: Home, name: str, version: str, day: str | None = None) -> Version:
    """Make an earlier version the current one: a new version with the old rows, or `latest` pointing back to an artefact."""
    if _is_artifact(home, name):
        home.artifacts.point(name, "latest", home.artifacts.get(name, version).id)
        return next(each for each in log(home, name) if each.current)
    dataset = _dataset(home, name, _needed(day, name))
    _checked_out(dataset, version, name).restore()
    return _day_versions(home, name, _needed(day, name))[-1]


def _is_artifact(home: Home, name: str) -> bool:
    tables = {path.name for path in home.lake.root.glob("*")}
    kinds = {path.name for path in home.artifacts.root.glob("*")}
    if name not in tables | kinds:
        raise MissingError(f"no table or artefact {name!r} in {home.root}{near(name, tables | kinds)}")
    return name in kinds


def _artifact_versions(artifacts: Artifacts, kind: str) -> Iterator[Version]:
    current = artifacts.named(kind).id if artifacts.has(kind) else None
    for manifest in (artifacts.root / kind).glob("*/manifest.json"):
        artifact = artifacts.get(kind, manifest.parent.name)
        rows = pq.read_metadata(path).num_rows if (path := artifact.path / "documents.parquet").exists() else None
        yield Version(kind, None, artifact.id, _time(manifest.stat().st_mtime), rows, artifact.id, artifact.id == current)


def _day_versions(home: Home, table: str, day: str) -> list[Version]:
    dataset = _dataset(home, table, day)
    found = []
    names = {name: tag["version"] for name, tag in dataset.tags.list().items()}
    for entry in dataset.versions():
        rows = dataset.checkout_version(entry["version"]).to_table()
        written = entry["timestamp"].astimezone(UTC).isoformat(timespec="seconds")
        current = entry["version"] == dataset.version
        tags = tuple(sorted(name for name, version in names.items() if version == entry["version"]))
        found.append(Version(table, day, str(entry["version"]), written, rows.num_rows, table_hash(rows), current, tags))
    return found


def _rows(home: Home, name: str, version: str, day: str | None) -> pa.Table:
    if not _is_artifact(home, name):
        return _checked_out(_dataset(home, name, _needed(day, name)), version, name).to_table()
    artifact = home.artifacts.get(name, version)
    files = [path for path in sorted(artifact.path.iterdir()) if path.suffix in (".parquet", ".jsonl") and "clusters" not in path.name]
    if not files:
        raise InputError(f"{name} {version}: holds no rows to compare, only {', '.join(p.name for p in sorted(artifact.path.iterdir()))}")
    return pa.concat_tables([_table(artifact.path / file.name) for file in files], promote_options="permissive")


def _table(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    from llm_pipeline.store import read_jsonl

    rows = read_jsonl(path)
    return pa.table({"id": [f"{path.stem}/{row['id']}" for row in rows], "row": [content_hash(row) for row in rows]})


def _hashes(rows: pa.Table) -> dict[str, str]:
    if "id" not in rows.column_names:
        raise InputError(f"these rows have no id to compare by; received the columns {', '.join(rows.column_names)}")
    return {str(row["id"]): content_hash(row) for row in rows.to_pylist()}


def _dataset(home: Home, table: str, day: str) -> lance.LanceDataset:
    [uri] = home.lake.uris(table, [day])
    return lance.dataset(uri)


def _checked_out(dataset: lance.LanceDataset, version: str, name: str) -> lance.LanceDataset:
    tags = dataset.tags.list()
    known = [str(entry["version"]) for entry in dataset.versions()]
    if version not in known and version not in tags:
        raise MissingError(f"{name}: no version {version!r}; there are {', '.join([*known, *tags])}")
    return dataset.checkout_version(version if version in tags else int(version))


def _needed(day: str | None, table: str) -> str:
    if day is None:
        raise InputError(f"{table} is a daily table: say which day with --day")
    return day


def _time(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).isoformat(timespec="seconds")
