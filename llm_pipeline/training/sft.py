"""From a data set and a base model to a checkpoint artefact: trained once for the same inputs, resumed after a kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llm_pipeline.store import Artifact, Home, content_hash, file_hash, write_atomically
from llm_pipeline.training.launch import Message, Poll, curve, train
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.tracking import Tracker

LIBRARIES = ("torch", "transformers", "trl", "peft", "deepspeed", "accelerate")
CODE = ("worker.py", "trainers.py", "data.py")


def fingerprint(recipe: Recipe, dataset: Artifact, base: Artifact) -> dict[str, Any]:
    """Everything that decides the weights; the same fingerprint is the same training, in whatever run it happens."""
    here = Path(__file__).parent
    return {
        "recipe": recipe.inputs(),
        "sft_dataset": dataset.id,
        "base_model": base.id,
        "code": content_hash(*[file_hash(here / name) for name in CODE]),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def make_checkpoint(
    home: Home,
    recipe: Recipe,
    dataset: Artifact,
    base: Artifact,
    *,
    on_message: Callable[[Message], None] = lambda _: None,
    env: Mapping[str, str] | None = None,
    poll: Poll | None = None,
) -> Artifact:
    """The `sft_checkpoint` artefact: `adapter/` and `training.json`. `env` and `poll` are for an orchestrator's Pipes."""
    inputs = fingerprint(recipe, dataset, base)
    work = home.root / "work" / "sft" / content_hash(inputs)

    def make(folder: Path) -> dict[str, Any]:
        work.mkdir(parents=True, exist_ok=True)
        tags = {"sft_dataset": dataset.id, "base_model": base.id, "fingerprint": work.name, "mlflow.runName": f"sft-{work.name[:8]}"}
        params = {f"lora.{key}": value for key, value in asdict(recipe.lora).items()} | {
            k: v for k, v in asdict(recipe).items() if k != "lora"
        }
        tracker = Tracker(home.mlflow_uri, work / "mlflow_run_id", params, tags)

        def tell(message: Message) -> None:
            on_message(message)
            tracker(message)

        begun = time.monotonic()
        result = train(
            recipe,
            data=dataset.file("train.jsonl"),
            validation=dataset.path / "validation.jsonl",
            base=base.file("model"),
            work=work,
            on_message=tell,
            env=env,
            poll=poll,
        )
        info = _describe(result, work, time.monotonic() - begun)
        shutil.copytree(result / "adapter", folder / "adapter")
        write_atomically(folder / "training.json", json.dumps({**info, **inputs, "curve": curve(work)}, indent=1))
        info["mlflow_run_id"] = tracker.finish(info, folder)
        write_atomically(folder / "training.json", json.dumps({**info, **inputs, "curve": curve(work)}, indent=1))
        return info

    artifact = home.artifacts.build("sft_checkpoint", inputs, make)
    shutil.rmtree(work, ignore_errors=True)
    return artifact


def _describe(result: Path, work: Path, seconds: float) -> dict[str, Any]:
    points = curve(work)
    figures: dict[str, Any] = json.loads((result / "figures.json").read_text("utf-8"))
    last = points[-1] if points else {}
    return {
        **figures,
        "loss": last.get("loss"),
        "tokens_per_second": last.get("tokens_per_second"),
        "training_seconds": last.get("seconds"),
        "seconds": seconds,
    }
