"""The recipe in the words of transformers' TrainingArguments, which all trainers of TRL share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_pipeline.training.interrupt import Report
from llm_pipeline.training.recipe import deepspeed_config

if TYPE_CHECKING:
    from llm_pipeline.training.trainers import Job


def world() -> int:
    """How many processes train, over all machines; the launcher says so."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def arguments(job: Job, rows: int) -> dict[str, Any]:
    """Keyword arguments for a run over `rows` rows. Build the config with them before the model: ZeRO 3 shards it as it is loaded."""
    recipe, processes = job.recipe, world()
    steps = recipe.max_steps or max(1, round(recipe.epochs * -(-rows // recipe.batch_size)))
    return {
        "output_dir": str(job.out),
        "max_steps": steps,
        "per_device_train_batch_size": recipe.batch_size // (processes * recipe.accumulation),
        "per_device_eval_batch_size": max(1, recipe.batch_size // processes),
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": round(steps * recipe.warmup_share),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "adam_beta2": 0.98,
        "optim": "adamw_torch",
        "bf16": recipe.precision == "bf16",
        "use_cpu": recipe.device == "cpu",
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "save_steps": recipe.save_steps,
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "deepspeed": deepspeed_config(recipe) if recipe.zero_stage else None,
    }


def stop_early(job: Job, validated: bool) -> dict[str, Any]:
    """Validations while training, the best of them remembered for `early_stopping`; nothing without validation rows."""
    recipe = job.recipe
    if not (recipe.evaluation_steps and validated):
        return {}
    best = {"metric_for_best_model": "eval_loss", "greater_is_better": False}
    return {"eval_strategy": "steps", "eval_steps": recipe.evaluation_steps, **best}


def callbacks(job: Job, validated: bool) -> list[Any]:
    from transformers import EarlyStoppingCallback

    return [EarlyStoppingCallback(job.recipe.early_stopping)] if job.recipe.early_stopping and validated else []


def tell(report: Report, lengths: Sequence[int], *, rows: int, too_long: int, room: int) -> float:
    """Report what the rows hold (`lengths`: tokens of each example); return the mean tokens per row."""
    tokens = sum(lengths)
    report(
        {
            "event": "data", "examples": len(lengths), "too_long": too_long, "rows": rows, "tokens": tokens,
            "fill": tokens / rows / room,
        }
    )  # fmt: skip
    return tokens / rows
