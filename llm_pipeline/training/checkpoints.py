"""Checkpoints that are used only when whole: a manifest, written last, names every file and its size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from llm_pipeline.store import write_atomically

MANIFEST = "complete.json"


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint complete; call it when all processes have written their part."""
    files = {str(p.relative_to(checkpoint)): p.stat().st_size for p in sorted(checkpoint.rglob("*")) if p.is_file() and p.name != MANIFEST}
    write_atomically(checkpoint / MANIFEST, json.dumps(files, indent=1))


def is_complete(checkpoint: Path) -> bool:
    try:
        files: dict[str, int] = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
        return bool(files) and all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError):
        return False


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that can be trusted."""
    complete = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    return max(complete, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def remove_incomplete(folder: Path) -> list[str]:
    """Delete what a killed process left half-written, so that it neither misleads nor accumulates; return the names."""
    broken = [path for path in folder.glob("checkpoint-*") if not is_complete(path)]
    for path in broken:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in broken)
