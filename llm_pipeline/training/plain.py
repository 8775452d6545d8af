"""A recipe trained on a file into a folder, without Dagster and without a home: what `llm-pipeline train` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_pipeline.errors import ConfigError
from llm_pipeline.store import file_hash, write_atomically
from llm_pipeline.training.bases import base_folder, from_hub
from llm_pipeline.training.curves import loss_curve
from llm_pipeline.training.launch import Message
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.rows import read_rows
from llm_pipeline.training.sft import circumstances, run


def train_file(
    recipe: Recipe, data: Path, validation: Path | None, out: Path, on_message: Callable[[Message], None] = lambda _: None
) -> dict[str, Any]:
    """Leave in `out` what was trained and return its figures; the same call again goes on where an earlier one was stopped.

    `model/` is a standalone model with tokenizer and chat template, `adapter/` what PEFT trained (virtual tokens are only that),
    `training.json` figures and circumstances, `curve.png` the loss. Another recipe or other data in the same folder are refused.
    """
    for path in (data, *([validation] if validation else [])):
        read_rows(path, recipe.method)
    work = out / ".work"
    base = _base(recipe, work)
    inputs = circumstances(recipe) | {"data": file_hash(data), "base": file_hash(base)}
    inputs |= {"validation": file_hash(validation)} if validation else {}
    done = out / "training.json"
    if done.exists():
        _expect_same(json.loads(done.read_text("utf-8")), inputs, out)
        return _summary(out, reused=True)
    _claim(work / "inputs.json", inputs, out)
    staging = out / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    run(recipe, base, data, validation, work, staging, inputs, on_message=on_message)
    if (staging / "adapter").exists():
        from llm_pipeline.training.merge import standalone

        standalone(base, staging, staging / "model")
    points = json.loads((staging / "training.json").read_text("utf-8"))["curve"]
    label = "loss (nats per token)" if recipe.method in ("sft", "pretrain") else f"loss ({recipe.method})"
    loss_curve(points, label).savefig(staging / "curve.png", dpi=100, bbox_inches="tight")
    for path in sorted(staging.iterdir(), key=lambda path: path == staging / "training.json"):  # it says that all is there
        path.rename(out / path.name)
    staging.rmdir()
    shutil.rmtree(work)
    return _summary(out, reused=False)


def _base(recipe: Recipe, work: Path) -> Path:
    folder = base_folder(recipe)
    if folder is not None:
        return folder
    if recipe.base == "scratch":
        raise ConfigError(
            "base scratch is pretrained on the corpus snapshot by the asset base_model (or by `llm-pipeline pretrain`); to pretrain "
            "on a file of texts, expected the recipe `pretrain`"
        )
    if not (work / "base").exists():
        shutil.rmtree(work / ".base", ignore_errors=True)
        from_hub(recipe, work / ".base")
        (work / ".base").rename(work / "base")
    return work / "base"


def _claim(note: Path, inputs: Mapping[str, Any], out: Path) -> None:
    """Bind the folder to these inputs, or refuse it when it has a run of others."""
    if note.exists():
        _expect_same(json.loads(note.read_text("utf-8")), inputs, out)
    write_atomically(note, json.dumps(inputs))


def _expect_same(found: Mapping[str, Any], inputs: Mapping[str, Any], out: Path) -> None:
    known: dict[str, Any] = json.loads(json.dumps(inputs))
    changed = [key for key, value in known.items() if found.get(key) != value]
    if "recipe" in changed:
        before, now = found.get("recipe") or {}, known["recipe"]
        changed += [f"{key} {before.get(key)} -> {now.get(key)}" for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        raise ConfigError(f"{out} has a run with other inputs ({', '.join(changed)}): expected the same ones, or another --out")


def _summary(out: Path, *, reused: bool) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "training.json").read_text("utf-8"))
    figures = {key: value for key, value in told.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    left = {name: str(out / name) for name in ("model", "adapter", "training.json", "curve.png") if (out / name).exists()}
    return {**figures, **left, "reused": reused}
