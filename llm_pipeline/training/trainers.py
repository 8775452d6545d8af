"""The trainer of a run: TRL's for the recipe's method, on rows that were checked, tokenised and masked here."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import TrainingError
from llm_pipeline.store import write_atomically
from llm_pipeline.training.adapters import check_quantisation, load_tokenizer
from llm_pipeline.training.interrupt import Interrupt, Report
from llm_pipeline.training.recipe import Method, Recipe
from llm_pipeline.training.rows import Row, read_rows


@dataclass(frozen=True)
class Job:
    """Where one run finds its input and leaves its output."""

    recipe: Recipe
    data: Path
    validation: Path | None
    base: Path
    out: Path

    def status(self, state: str, **details: Any) -> None:
        write_atomically(self.out / "status.json", json.dumps({"state": state, **details}))


def skip_collectives() -> None:
    """Spare a single process the minute of compiling collectives in shared memory: it has nobody to talk to."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def make_trainer(job: Job, report: Report, interrupt: Interrupt) -> Any:
    """The trainer of the recipe's method, with its rows, its model and our callback."""
    from datasets.utils.logging import disable_progress_bar

    from llm_pipeline.training.watch import Watch

    recipe = job.recipe
    disable_progress_bar()
    if recipe.adapter == "qlora":
        check_quantisation(recipe.device)
    if recipe.zero_stage and int(os.environ.get("WORLD_SIZE", recipe.processes)) == 1:
        skip_collectives()
    rows, tokenizer = read_rows(job.data, recipe.method), load_tokenizer(job.base)
    trainer, tokens_per_row = _maker(recipe.method)(job, tokenizer, rows, _validation(job), report)
    if bool(recipe.zero_stage) != trainer.is_deepspeed_enabled:
        raise TrainingError(f"zero_stage {recipe.zero_stage}, but Accelerate chose {trainer.accelerator.distributed_type}")
    trainer.add_callback(Watch(report, interrupt, tokens_per_row * recipe.batch_size, recipe))
    return trainer


def figures(trainer: Any, validation: Mapping[str, float]) -> dict[str, Any]:
    """What is worth keeping of a finished run; `validation` is what `trainer.evaluate()` said, or empty."""
    parameters = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in trainer.model.parameters()]
    accuracy = validation.get("eval_accuracy", validation.get("eval_rewards/accuracies"))
    return {
        "steps": trainer.state.global_step,
        "validation_loss": validation.get("eval_loss"),
        "validation_token_accuracy": validation.get("eval_mean_token_accuracy"),
        "validation_preference_accuracy": accuracy,
        "trainable_parameters": sum(n for trainable, n in parameters if trainable),
        "parameters": sum(n for _, n in parameters),
    }


def _maker(method: Method) -> Callable[..., tuple[Any, float]]:
    """Builds (trainer, mean tokens per row)."""
    from llm_pipeline.training import distillation, language, preferences

    makers: dict[Method, Callable[..., tuple[Any, float]]] = {
        "sft": language.make,
        "pretrain": language.make,
        "dpo": preferences.make_dpo,
        "kto": preferences.make_kto,
        "reward": preferences.make_reward,
        "distill": distillation.make,
    }
    return makers[method]


def _validation(job: Job) -> list[Row]:
    if not (job.validation and job.validation.exists() and job.validation.stat().st_size and job.recipe.evaluation_rows):
        return []
    rows = read_rows(job.validation, job.recipe.method)
    return random.Random(job.recipe.seed).sample(rows, min(len(rows), job.recipe.evaluation_rows))
