"""Where everything lives: daily tables, immutable artefacts, and the rules by which both are published.

A day of a table is replaced in one commit and an artefact appears by one rename, so a reader sees all of it or none, and
whoever writes the same content again changes nothing: the version is a hash of the content (tables) or of the inputs
(artefacts).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import ContractError, InputError, MissingError, near

if TYPE_CHECKING:  # tables cost 110 MB, which a process that reads none need not have
    import lance
    import pyarrow as pa

os.environ.setdefault("LANCE_LOG", "error")  # that a dataset is written for the first time is no warning

_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str).encode


def content_hash(*parts: object) -> str:
    """16 hexadecimal digits (64 bits) of the SHA-256 of the parts; bytes as they are, anything else as canonical JSON."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else _canonical(part).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def table_hash(rows: pa.Table) -> str:
    """Hash of schema and values, independent of how the table is chunked."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        if rows.num_rows:
            writer.write_batch(rows.replace_schema_metadata(None).combine_chunks().to_batches()[0])
    return content_hash(sink.getvalue().to_pybytes())


def file_hash(path: Path) -> str:
    """Hash of one file, or of the relative names and contents of all files below a folder."""
    if path.is_dir():
        return content_hash(*[[str(p.relative_to(path)), file_hash(p)] for p in sorted(path.rglob("*")) if p.is_file()])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_atomically(path: Path, data: str | bytes, *, private: bool = False) -> None:
    """Replace `path` in one step, durably: a reader or a crash sees the old content or the new, never a part.

    A `private` file is for this user's eyes only, any other for those that the umask says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Artifact:
    """One immutable folder: `path` holds the files, `inputs` what decided them, `info` what is worth showing about them."""

    kind: str
    id: str
    path: Path
    inputs: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=dict)
    reused: bool = False

    def file(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            raise MissingError(f"{self.kind} {self.id}: no file {name!r}{near(name, [p.name for p in self.path.iterdir()])}")
        return path

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text("utf-8"))

    def jsonl(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.file(name))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: expected one JSON object per line, received {line[:80]!r}") from error
    return rows


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


class Artifacts:
    """Immutable folders named by the hash of what decided them, and mutable names (`latest`, `champion`) that point at one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self, kind: str, inputs: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """Return the artefact of these inputs, made by `make(folder) -> info` unless it exists; point `latest` at it.

        A failed or killed `make` leaves nothing that a reader could take for the artefact.
        """
        identity = content_hash(dict(inputs))
        final = self.root / kind / identity
        with _locked(self.root / kind / f".{identity}.lock"):
            reused = final.exists()
            if not reused:
                for left in final.parent.glob(f".{identity}.*/"):  # by one that was killed
                    shutil.rmtree(left, ignore_errors=True)
                staging = final.with_name(f".{identity}.{secrets.token_hex(8)}")
                staging.mkdir()
                try:
                    info = make(staging)
                    manifest = {"kind": kind, "id": identity, "inputs": dict(inputs), "info": dict(info)}
                    write_atomically(staging / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True, default=str))
                    os.replace(staging, final)
                except BaseException:
                    shutil.rmtree(staging, ignore_errors=True)
                    raise
        self.point(kind, "latest", identity)
        return self.get(kind, identity, reused=reused)

    def sweep(self, kind: str) -> list[str]:
        """Remove the folders that killed builders (and removers) left, and return their names; one that is at work is not disturbed."""
        left: dict[str, list[Path]] = {}
        for path in (self.root / kind).glob(".*.*/"):
            left.setdefault(path.name.split(".")[1], []).append(path)
        swept = []
        for identity, paths in left.items():
            with _locked(self.root / kind / f".{identity}.lock", wait=False) as ours:
                for path in paths if ours else ():
                    shutil.rmtree(path, ignore_errors=True)
                    swept.append(path.name)
        return sorted(swept)

    def get(self, kind: str, identity: str, *, reused: bool = False) -> Artifact:
        path = self.root / kind / identity
        try:
            manifest = json.loads((path / "manifest.json").read_text("utf-8"))
        except FileNotFoundError:
            known = [p.parent.name for p in (self.root / kind).glob("*/manifest.json")]
            raise MissingError(f"no {kind} {identity!r} under {self.root}{near(identity, known)}") from None
        except json.JSONDecodeError as error:
            raise ContractError(f"{path / 'manifest.json'}: damaged, make this {kind} again: {error}") from error
        return Artifact(kind, identity, path, manifest["inputs"], manifest["info"], reused)

    def point(self, kind: str, name: str, identity: str) -> None:
        write_atomically(self.root / kind / f"{name}.ref", identity)

    def named(self, kind: str, name: str = "latest") -> Artifact:
        try:
            return self.get(kind, (self.root / kind / f"{name}.ref").read_text())
        except FileNotFoundError:
            raise MissingError(f"no {name} {kind} under {self.root}: materialise the asset `{kind}` first") from None

    def latest(self) -> dict[str, str]:
        """The id that `latest` names, by kind."""
        return {ref.parent.name: ref.read_text() for ref in sorted(self.root.glob("*/latest.ref"))}

    def has(self, kind: str, name: str = "latest") -> bool:
        return (self.root / kind / f"{name}.ref").exists()


class Lake:
    """Daily tables: one Lance dataset per table and day, so days are written, repaired and read independently."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def replace(self, table: str, day: str, rows: pa.Table) -> str:
        """Make `rows` the whole content of `day` in one commit and return its data version (unchanged content: no commit)."""
        import lance

        rows = _with_day(rows, day)
        version = table_hash(rows)
        path = self._path(table, day)
        if not path.exists() or table_hash(lance.dataset(str(path)).to_table()) != version:
            path.parent.mkdir(parents=True, exist_ok=True)
            lance.write_dataset(rows, str(path), mode="overwrite")
        return version

    def read(self, table: str, days: Sequence[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of `days` (all when None) in the order of days, within a day as written; a missing day is an error."""
        import pyarrow as pa

        wanted = self.days(table) if days is None else list(days)
        if not wanted:
            known = [path.name for path in self.root.glob("*") if path.is_dir()]
            raise MissingError(f"no days of table {table!r} in {self.root}{near(table, known)}")
        return pa.concat_tables(
            [self._day(table, day).to_table(columns=list(columns) if columns else None) for day in wanted], promote_options="default"
        )

    def uris(self, table: str, days: Sequence[str]) -> list[str]:
        """Where the days are, for an engine that scans Lance itself."""
        return [self._day(table, day).uri for day in days]

    def version(self, table: str, day: str) -> str:
        return table_hash(self._day(table, day).to_table())

    def tag(self, table: str, days: Sequence[str], name: str) -> None:
        """Name the present version of these days, so that it can be found again whatever is written later."""
        for day in days:
            dataset = self._day(table, day)
            known = dataset.tags.list()
            if name not in known:
                dataset.tags.create(name, dataset.version)
            elif known[name]["version"] != dataset.version:
                dataset.tags.update(name, dataset.version)

    def days(self, table: str) -> list[str]:
        return sorted(path.stem for path in (self.root / table).glob("*.lance"))

    def _day(self, table: str, day: str) -> lance.LanceDataset:
        import lance

        path = self._path(table, day)
        if not path.exists():
            raise MissingError(f"table {table!r} has no day {day}; it has {', '.join(self.days(table)) or 'none'}")
        return lance.dataset(str(path))

    def _path(self, table: str, day: str) -> Path:
        return self.root / table / f"{day}.lance"


def _with_day(rows: pa.Table, day: str) -> pa.Table:
    import pyarrow as pa

    column = pa.array([day] * rows.num_rows, pa.string())
    if "day" in rows.column_names:
        return rows.set_column(rows.column_names.index("day"), "day", column)
    return rows.add_column(0, "day", column)


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; the kernel releases it when the process ends, however it ends. False where others have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@dataclass(frozen=True)
class Home:
    """The folder that holds everything the pipeline makes (`LLM_PIPELINE_HOME`)."""

    root: Path

    @property
    def lake(self) -> Lake:
        return Lake(self.root / "lake")

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.root / "artifacts")

    @property
    def landing(self) -> Path:
        """Raw files as they arrive: `landing/<source>/<day>/...`."""
        return self.root / "landing"

    @property
    def indexes(self) -> Path:
        return self.root / "indexes"

    @property
    def endpoint(self) -> Path:
        return self.root / "endpoint"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def mlflow_uri(self) -> str:
        (self.root / "mlflow").mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"
