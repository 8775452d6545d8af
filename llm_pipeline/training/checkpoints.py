"""Checkpoints that are used only when whole: a manifest, written last, names every file and its size.

The manifest knows nothing of the run that wrote it, only how many processes did, so any later run can go on from there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from llm_pipeline.store import write_atomically

MANIFEST = "complete.json"


def seal(checkpoint: Path, processes: int = 1) -> None:
    """Declare a checkpoint complete and on the disk; call it when all processes have written their part."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MANIFEST]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    write_atomically(checkpoint / MANIFEST, json.dumps({"processes": processes, "files": sizes}, indent=1))


def is_complete(checkpoint: Path) -> bool:
    try:
        files: dict[str, int] = _manifest(checkpoint)["files"]
        return bool(files) and all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint that can be trusted."""
    complete = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    return max(complete, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def processes_of(checkpoint: Path) -> int:
    """How many processes wrote the checkpoint."""
    return int(_manifest(checkpoint)["processes"])


def remove_incomplete(folder: Path) -> list[str]:
    """Delete what a killed process left half-written, so that it neither misleads nor accumulates; return the names."""
    broken = [path for path in folder.glob("checkpoint-*") if not is_complete(path)]
    for path in broken:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in broken)


def keep(folder: Path, newest: int, best: str | None = None) -> None:
    """Delete complete checkpoints but the `newest` so many and the one named `best`; call it after the newest is sealed."""
    complete = sorted((path for path in folder.glob("checkpoint-*") if is_complete(path)), key=step_of)
    for path in complete[:-newest]:
        if path.name != best:
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def best_checkpoint(folder: Path, state: Any) -> Path | None:
    """The checkpoint with the lowest validation loss by the trainer's state, where it is whole."""
    best = folder / f"checkpoint-{state.best_global_step}"
    return best if state.best_global_step and is_complete(best) else None


def copy_weights(checkpoint: Path, out: Path) -> None:
    """The model or adapter of a checkpoint with its tokenizer, without the state of the training."""
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"):
        for file in checkpoint.glob(pattern):
            if file.name not in (MANIFEST, "trainer_state.json"):
                shutil.copy2(file, out / file.name)


def disk_full(error: BaseException, folder: Path) -> str | None:
    """What to tell when `error` comes from a full disk (or quota), else None. Writers word it in many ways; few give an errno."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    numbers = {e.errno for e in chain if isinstance(e, OSError)}
    words = " ".join(map(str, chain)).lower()
    free = shutil.disk_usage(folder).free
    failed_write = any(word in words for word in ("no space left", "os error 28", "disk quota", "file write failed", "unexpected pos"))
    if not (numbers & {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or failed_write):
        return None
    last = last_complete(folder)
    survives = f"{last.name} is whole; the same command goes on from it" if last else "no checkpoint was whole yet"
    return f"the disk is full: {free / 1e6:.1f} MB are free in {folder}; free some space: {survives}"


def _manifest(checkpoint: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text("utf-8"))
    return manifest
