"""Runs a training again from what its checkpoint recorded, and says what came out differently."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.config import load
from llm_pipeline.errors import MissingError, near
from llm_pipeline.store import Artifact, Home
from llm_pipeline.training.launch import Message
from llm_pipeline.training.provenance import differences
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.sft import rows_for, run


def find_checkpoint(home: Home, name: str) -> Artifact:
    """The checkpoint with this artefact id or MLflow run id."""
    known = []
    for recorded in sorted(home.artifacts.root.glob("*/*/training.json")):
        checkpoint = home.artifacts.get(recorded.parents[1].name, recorded.parent.name)
        run_id = str(checkpoint.info.get("mlflow_run_id", ""))
        if name in (checkpoint.id, run_id):
            return checkpoint
        known += [checkpoint.id, run_id]
    raise MissingError(f"no checkpoint {name!r} in {home.artifacts.root}, by its id or its MLflow run{near(name, filter(None, known))}")


def reproduce(home: Home, name: str, scratch: Path, on_message: Callable[[Message], None] = lambda _: None) -> dict[str, Any]:
    """Train the checkpoint named by artefact or MLflow run id again in `scratch` and compare weights, losses and circumstances.

    On a CPU the weights are the same bits as long as code, libraries, processor, threads and number of processes are; whatever
    differs stands in `differences` as `[then, now]`.
    """
    checkpoint = find_checkpoint(home, name)
    recipe = load(Recipe, checkpoint.file("recipe.yaml"))
    sources = [home.artifacts.get(kind, str(checkpoint.inputs[kind])) for kind in checkpoint.inputs if _is_artifact(home, checkpoint, kind)]
    base = next(source for source in sources if (source.path / "model").exists())
    data = next(source for source in sources if source is not base)
    out = scratch / "out"
    out.mkdir(parents=True, exist_ok=True)
    run(recipe, base.file("model"), *rows_for(recipe, data), scratch / "work", out, checkpoint.inputs, on_message=on_message)
    then, now = checkpoint.json("training.json"), json.loads((out / "training.json").read_text("utf-8"))
    return {
        "checkpoint": checkpoint.id,
        **compare_weights(checkpoint.path, out),
        **compare_curves(then["curve"], now["curve"]),
        "differences": differences(then["provenance"], now["provenance"]),
    }


def compare_weights(one: Path, other: Path) -> dict[str, Any]:
    """Whether the tensors of two results are the same bits, how many are not, and by how much at most."""
    import torch

    mine, theirs = _tensors(one), _tensors(other)
    if mine.keys() != theirs.keys() or any(mine[name].shape != theirs[name].shape for name in mine):
        odd = sorted(mine.keys() ^ theirs.keys()) or [name for name in mine if mine[name].shape != theirs[name].shape]
        return {"identical": False, "tensors": len(mine), "different_tensors": len(odd), "max_difference": None, "not_comparable": odd[:8]}
    changed = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    most = max((float((mine[name].double() - theirs[name].double()).abs().max()) for name in changed), default=0.0)
    return {"identical": not changed, "tensors": len(mine), "different_tensors": len(changed), "max_difference": most}


def compare_curves(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first step whose loss differs (None: no such step), and the largest difference."""
    mine, theirs = ({point["step"]: point["loss"] for point in curve} for curve in (then, now))
    both = sorted(mine.keys() & theirs.keys())
    gaps = {step: abs(mine[step] - theirs[step]) for step in both if mine[step] != theirs[step]}
    return {
        "steps_compared": len(both),
        "first_different_step": min(gaps, default=None),
        "max_loss_difference": max(gaps.values(), default=0.0),
    }


def _is_artifact(home: Home, checkpoint: Artifact, kind: str) -> bool:
    return isinstance(checkpoint.inputs[kind], str) and (home.artifacts.root / kind / str(checkpoint.inputs[kind])).is_dir()


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*/*.safetensors")) for name, tensor in load_file(file).items()}
