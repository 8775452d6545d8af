"""From rows and a base model to a checkpoint, by any method: trained once for the same inputs, resumed after a kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from llm_pipeline.store import Artifact, Home, content_hash, file_hash, write_atomically
from llm_pipeline.training.bases import model_folder, starting_model
from llm_pipeline.training.launch import Message, Poll, curve, train
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.tracking import Data, Tracker

LIBRARIES = ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate")
CODE = "worker trainers arguments adapters language preferences distillation fresh rows data order".split()


def circumstances(recipe: Recipe) -> dict[str, Any]:
    """What decides the weights beside the rows and the base: recipe, teacher, code and library versions."""
    here = Path(__file__).parent
    teacher = (
        {"teacher": file_hash(model_folder(recipe.distillation.teacher, "distillation.teacher"))} if recipe.method == "distill" else {}
    )
    return {
        "recipe": recipe.inputs(),
        **teacher,
        "code": content_hash(*[file_hash(here / f"{name}.py") for name in CODE]),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def fingerprint(recipe: Recipe, dataset: Artifact, base: Artifact) -> dict[str, Any]:
    """Everything that decides the weights; the same fingerprint is the same training, in whatever run it happens."""
    return {**circumstances(recipe), dataset.kind: dataset.id, base.kind: base.id}


def rows_for(recipe: Recipe, dataset: Artifact) -> tuple[Path, Path]:
    """The files to train and to validate on: `train.jsonl` and `validation.jsonl`, for KTO the same as single answers."""
    prefix = "liked_" if recipe.method == "kto" and (dataset.path / "liked_train.jsonl").exists() else ""
    return dataset.file(f"{prefix}train.jsonl"), dataset.path / f"{prefix}validation.jsonl"


def make_checkpoint(
    home: Home,
    recipe: Recipe,
    dataset: Artifact,
    base: Artifact,
    *,
    kind: str = "sft_checkpoint",
    on_message: Callable[[Message], None] = lambda _: None,
    env: Mapping[str, str] | None = None,
    poll: Poll | None = None,
) -> Artifact:
    """The artefact of one training: `adapter/` or `model/`, and `training.json`.

    `dataset` holds the rows of the recipe's method, `base` a model folder `model/`, which the recipe's own base gives way to.
    `env` and `poll` are for an orchestrator's Pipes.
    """
    inputs = fingerprint(recipe, dataset, base)
    work = home.root / "work" / recipe.method / content_hash(inputs)

    def make(folder: Path) -> dict[str, Any]:
        work.mkdir(parents=True, exist_ok=True)
        name = f"{recipe.method}-{work.name[:8]}"
        tags = {dataset.kind: dataset.id, base.kind: base.id, "fingerprint": work.name, "mlflow.runName": name}
        files = rows_for(recipe, dataset)
        data = [Data("training", dataset.kind, dataset.id, files[0])]
        tracker = Tracker(home.mlflow_uri, work / "mlflow_run_id", _flat(asdict(recipe)), tags, data)

        def tell(message: Message) -> None:
            on_message(message)
            tracker(message)

        try:
            info = run(recipe, base.file("model"), *files, work, folder, inputs, on_message=tell, env=env, poll=poll)
        except BaseException as error:
            tracker.close("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        info["mlflow_run_id"] = tracker.finish(info, folder)
        _record(folder, info, inputs, work)
        return info

    artifact = home.artifacts.build(kind, inputs, make)
    shutil.rmtree(work, ignore_errors=True)
    return artifact


def run(
    recipe: Recipe,
    base: Path,
    data: Path,
    validation: Path | None,
    work: Path,
    out: Path,
    inputs: Mapping[str, Any],
    *,
    on_message: Callable[[Message], None] = lambda _: None,
    env: Mapping[str, str] | None = None,
    poll: Poll | None = None,
) -> dict[str, Any]:
    """Train in `work`, going on where an earlier call was stopped; leave the result and `training.json` in `out`, return the figures."""
    begun = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    start = starting_model(recipe, base, data, work)
    result = train(recipe, data=data, validation=validation, base=start, work=work, on_message=on_message, env=env, poll=poll)
    info = _describe(result, work, time.monotonic() - begun)
    if (result / "adapter").exists():
        shutil.copytree(result / "adapter", out / "adapter", dirs_exist_ok=True)
    else:
        from llm_pipeline.training.merge import standalone

        standalone(start, result, out / "model")
    write_atomically(out / "recipe.yaml", yaml.safe_dump(asdict(recipe)))
    _record(out, info, inputs, work)
    return info


def _record(out: Path, info: Mapping[str, Any], inputs: Mapping[str, Any], work: Path) -> None:
    made_by = work / "provenance.json"
    provenance = json.loads(made_by.read_text("utf-8")) if made_by.exists() else {}
    write_atomically(out / "training.json", json.dumps({**info, **inputs, "provenance": provenance, "curve": curve(work)}, indent=1))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `block.name`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _describe(result: Path, work: Path, seconds: float) -> dict[str, Any]:
    points = curve(work)
    figures: dict[str, Any] = json.loads((result / "figures.json").read_text("utf-8"))
    last = points[-1] if points else {}
    return {
        **{key: value for key, value in figures.items() if value is not None or key == "validation_loss"},
        "loss": last.get("loss"),
        "tokens_per_second": last.get("tokens_per_second"),
        "training_seconds": last.get("seconds"),
        "seconds": seconds,
    }
