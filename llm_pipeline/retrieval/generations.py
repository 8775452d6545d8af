"""The generations of an index over time: which there are, going back to one, and removing those that nobody needs."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llm_pipeline.errors import InputError, MissingError
from llm_pipeline.retrieval.index import KIND
from llm_pipeline.store import Artifact, Artifacts, Home

KEEP = 3


@dataclass(frozen=True)
class Generation:
    id: str
    built: str
    """When, ISO 8601."""
    chunks: int
    embedder: str
    megabytes: float
    live: bool
    released: bool
    """Whether a release names it."""


def generations(root: Path, released: Collection[str] = ()) -> list[Generation]:
    """All generations under `root`, newest first."""
    artifacts = Artifacts(root)
    live = artifacts.named(KIND, "live").id if artifacts.has(KIND, "live") else None
    manifests = sorted((root / KIND).glob("[0-9a-f]*/manifest.json"), key=lambda path: (-path.stat().st_mtime_ns, path.parent.name))
    return [_generation(artifacts.get(KIND, path.parent.name), path, live, released) for path in manifests]


def _generation(artifact: Artifact, manifest: Path, live: str | None, released: Collection[str]) -> Generation:
    return Generation(
        id=artifact.id,
        built=datetime.fromtimestamp(manifest.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        chunks=int(artifact.info["chunks"]),
        embedder=str(artifact.inputs["embedder"]),
        megabytes=round(sum(path.stat().st_size for path in artifact.path.rglob("*") if path.is_file()) / 1e6, 1),
        live=artifact.id == live,
        released=artifact.id in released,
    )


def released(home: Home) -> set[str]:
    """The generations that releases name: what answers now, and what a rollback would answer with."""
    folder = home.artifacts.root / "release"
    ids = (home.artifacts.get("release", path.parent.name).inputs.get("index") for path in folder.glob("[0-9a-f]*/manifest.json"))
    return {str(identity) for identity in ids if identity}


def roll_back(root: Path, identity: str | None = None) -> Artifact:
    """Make `identity` live (without one: the newest generation built before the live one) and return it."""
    artifacts, known = Artifacts(root), generations(root)
    if identity is None:
        names = [generation.id for generation in known]
        live = next((i for i, generation in enumerate(known) if generation.live), None)
        if live is None:
            raise MissingError(f"{root}: no generation is live; name one of {', '.join(names) or 'none'}")
        if live + 1 == len(known):
            raise InputError(f"{root}: {names[live]} is live, and no generation is older")
        identity = names[live + 1]
    artifact = artifacts.get(KIND, identity)
    artifacts.point(KIND, "live", artifact.id)
    return artifact


def collect_garbage(root: Path, released: Collection[str] = (), keep: int = KEEP) -> list[Generation]:
    """Remove all but the `keep` newest generations, the live one, and those that releases name; return what was removed.

    What builds that were killed left goes as well.

    A generation disappears by one rename, so nobody opens half of one; who reads it already goes on while its files are open.
    """
    if keep < 1:
        raise InputError(f"keep: received {keep}, expected at least 1")
    Artifacts(root).sweep(KIND)
    known = generations(root, released)
    removed = [generation for generation in known[keep:] if not (generation.live or generation.released)]
    for generation in removed:
        doomed = root / KIND / f".{generation.id}.removed"
        (root / KIND / generation.id).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return removed
