"""An append-only log in which every line holds the hash of the one before, so that an edited or missing line shows.

It proves order and integrity to whoever keeps one later hash elsewhere (a data version in the event log, for one); it does
not stop someone who can rewrite the whole file and every copy of its hashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_pipeline.errors import ContractError
from llm_pipeline.store import Artifact, Artifacts, Home

GENESIS = "0" * 64
RECORDED: Mapping[str, str] = {
    "promotion_decision": "decision.json",
    "release": "release.json",
    "deployed_endpoint": "rollout.json",
}
"""Artefacts that are decisions, and the file that says what was decided."""


@dataclass(frozen=True)
class AuditLog:
    """The log of a home folder; several processes may append to it."""

    path: Path

    @classmethod
    def of(cls, home: Home) -> AuditLog:
        return cls(home.root / "governance" / "audit_log.jsonl")

    def append(self, event: str, subject: str, detail: Mapping[str, Any], *, at: datetime | None = None) -> dict[str, Any]:
        """Add one entry, durably; `event` is what happened, `subject` to what. A torn last line of a killed writer is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            last = _repair(file)
            entry = {
                "number": last["number"] + 1 if last else 0,
                "at": (at or datetime.now(UTC)).isoformat(timespec="seconds"),
                "event": event,
                "subject": subject,
                "detail": dict(detail),
                "previous": last["hash"] if last else GENESIS,
            }
            entry["hash"] = _hash(entry)
            file.write(_line(entry))
            file.flush()
            os.fsync(file.fileno())
        return entry

    def entries(self) -> list[dict[str, Any]]:
        """All entries, verified: raises `ContractError` naming the first line that does not follow from the one before."""
        if not self.path.exists():
            return []
        found: list[dict[str, Any]] = []
        previous = GENESIS
        for number, line in enumerate(self.path.read_bytes().splitlines()):
            try:
                entry = json.loads(line)
                intact = entry["number"] == number and entry["previous"] == previous and entry["hash"] == _hash(entry)
            except (ValueError, KeyError, TypeError):
                intact = False
            if not intact:
                raise ContractError(f"{self.path}:{number + 1}: the chain breaks here: edited, removed or torn entry")
            previous = entry["hash"]
            found.append(entry)
        return found

    @property
    def head(self) -> str:
        entries = self.entries()
        return entries[-1]["hash"] if entries else GENESIS


def record_decisions(home: Home) -> tuple[int, list[dict[str, Any]]]:
    """Append every promotion decision, release and rollout that the log does not hold yet; (how many, all entries)."""
    log = AuditLog.of(home)
    known = {(entry["event"], entry["subject"]) for entry in log.entries()}
    new = [item for item in _decisions(home.artifacts) if (item.kind, item.id) not in known]
    for item in new:
        log.append(item.kind, item.id, item.json(RECORDED[item.kind]))
    return len(new), log.entries()


def _decisions(artifacts: Artifacts) -> Sequence[Artifact]:
    """In the order in which they were made, as far as the file system remembers."""
    paths = [path for kind in RECORDED for path in (artifacts.root / kind).glob("*/manifest.json")]
    ordered = sorted(paths, key=lambda path: (path.stat().st_mtime_ns, list(RECORDED).index(path.parent.parent.name), path))
    return [artifacts.get(path.parent.parent.name, path.parent.name) for path in ordered]


def _repair(file: Any) -> dict[str, Any] | None:
    file.seek(0)
    content: bytes = file.read()
    if content and not content.endswith(b"\n"):
        whole = content.rfind(b"\n") + 1
        file.truncate(whole)
        content = content[:whole]
    lines = content.splitlines()
    if not lines:
        return None
    try:
        return dict(json.loads(lines[-1]))
    except ValueError:
        raise ContractError(f"{file.name}:{len(lines)}: not JSON; the log cannot be continued") from None


def _hash(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(_line({name: value for name, value in entry.items() if name != "hash"})).hexdigest()


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n"
