"""The trainer of a run, by the recipe's method: TRL's, on rows that are already tokenised, masked and packed."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import TrainingError
from llm_pipeline.store import read_jsonl, write_atomically
from llm_pipeline.training.data import Collator, columns, encode_all, pack
from llm_pipeline.training.interrupt import Interrupt, Report
from llm_pipeline.training.recipe import Recipe, deepspeed_config


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
    """An SFTTrainer on rows that are already tokenised, masked and packed."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from llm_pipeline.training.watch import Watch

    recipe = job.recipe
    if recipe.zero_stage and recipe.processes == 1:
        skip_collectives()
    tokenizer = AutoTokenizer.from_pretrained(str(job.base))
    examples, too_long = encode_all(read_jsonl(job.data), tokenizer, recipe.max_length)
    rows = pack(examples, recipe.max_length, recipe.seed)
    tokens = sum(len(example.tokens) for example in examples)
    report(
        {
            "event": "data",
            "examples": len(examples),
            "too_long": too_long,
            "rows": len(rows),
            "tokens": tokens,
            "fill": tokens / len(rows) / recipe.max_length,
        }
    )
    steps_per_epoch = -(-len(rows) // recipe.batch_size)
    steps = recipe.max_steps or max(1, round(recipe.epochs * steps_per_epoch))
    arguments = SFTConfig(
        output_dir=str(job.out),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size // (recipe.processes * recipe.accumulation),
        per_device_eval_batch_size=max(1, recipe.batch_size // recipe.processes),
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=round(steps * recipe.warmup_share),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        adam_beta2=0.98,
        optim="adamw_torch",
        bf16=recipe.precision == "bf16",
        use_cpu=recipe.device == "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_steps=recipe.save_steps,
        save_total_limit=recipe.keep_checkpoints,
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        gradient_checkpointing=recipe.gradient_checkpointing,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        max_length=recipe.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        deepspeed=deepspeed_config(recipe) if recipe.zero_stage else None,
    )
    lora = LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(str(job.base), attn_implementation="sdpa", dtype="auto"),
        args=arguments,
        train_dataset=Dataset.from_list([columns(row) for row in rows]),
        eval_dataset=_validation(job, tokenizer),
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id),
        peft_config=lora,
    )
    if bool(recipe.zero_stage) != trainer.is_deepspeed_enabled:
        raise TrainingError(f"zero_stage {recipe.zero_stage}, but Accelerate chose {trainer.accelerator.distributed_type}")
    trainer.add_callback(Watch(report, interrupt, tokens / len(rows) * recipe.batch_size))
    return trainer


def _validation(job: Job, tokenizer: Any) -> Any:
    from datasets import Dataset

    rows = read_jsonl(job.validation) if job.validation and job.validation.exists() else []
    if not rows or not job.recipe.evaluation_rows:
        return None
    chosen = random.Random(job.recipe.seed).sample(rows, min(len(rows), job.recipe.evaluation_rows))
    examples, _ = encode_all(chosen, tokenizer, job.recipe.max_length)
    return Dataset.from_list([columns(row) for row in pack(examples, job.recipe.max_length, job.recipe.seed)])
