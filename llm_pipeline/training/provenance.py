"""Where and by what a model was trained: enough to run it again, and to say what differs when the result does."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.paths import PROJECT
from llm_pipeline.store import content_hash, file_hash

if TYPE_CHECKING:
    from llm_pipeline.training.trainers import Job

LIBRARIES = ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json")


def provenance(job: Job) -> dict[str, Any]:
    """All that decides or may change the weights of a run, beside its recipe."""
    from llm_pipeline.training.arguments import world

    return {
        "seed": job.recipe.seed,
        "processes": world(),
        "rows": file_hash(job.data),
        "validation_rows": file_hash(job.validation) if job.validation and job.validation.exists() else None,
        "base": file_hash(job.base),
        **tokenizer_versions(job.base),
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Code, libraries and hardware of this process."""
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "hardware": hardware(),
    }


def tokenizer_versions(folder: Path) -> dict[str, str | None]:
    """Hashes of the tokenizer and of the chat template in a model folder: what turns text into tokens, and talk into text."""
    template = folder / "chat_template.jinja"
    files = [[name, file_hash(folder / name)] for name in TOKENIZER if (folder / name).exists()]
    return {
        "tokenizer": content_hash(*files) if files else None,
        "chat_template": file_hash(template) if template.exists() else None,
    }


@cache
def code_version() -> dict[str, Any]:
    """The hash of the package's sources, and the commit where the package lies in a git checkout."""
    package = PROJECT / "llm_pipeline"
    sources = [[str(path.relative_to(package)), file_hash(path)] for path in sorted(package.rglob("*.py"))]
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--", "llm_pipeline"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"sources": content_hash(*sources), "commit": None, "changed": None}
    return {"sources": content_hash(*sources), "commit": commit, "changed": bool(changes.strip())}


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and accelerators; the flags of the processor decide which kernels compute."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return {
        **_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """`{dotted.key: [one, other]}` for every value that differs."""
    found: dict[str, list[Any]] = {}
    for key in sorted({*one, *other}):
        here, there = one.get(key), other.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found |= differences(here, there, f"{prefix}{key}.")
        elif here != there:
            found[prefix + key] = [here, there]
    return found


def _processor() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return {"processor": platform.processor() or platform.machine()}
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    flags = sorted(values.get("flags", values.get("Features", "")).split())
    return {"processor": values.get("model name", platform.machine()), "processor_flags": content_hash(flags)}


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
