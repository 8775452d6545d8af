"""The training process: TRL's SFTTrainer with LoRA under DeepSpeed, resumable after any kill.

    torchrun --nproc-per-node N -m llm_pipeline.training.worker --recipe r.json --data train.jsonl --base model --out work

Under Dagster Pipes its progress goes to the orchestrator; it always goes to stderr and to `work/progress.jsonl`. It ends
with `work/result/` (adapter and figures). SIGINT and SIGTERM save a checkpoint and exit with 75 (EX_TEMPFAIL). What became of
it stands in `work/status.json`, since launchers replace exit codes.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.config import load
from llm_pipeline.errors import PipelineError, TrainingError
from llm_pipeline.store import read_jsonl, write_atomically
from llm_pipeline.training.checkpoints import last_complete, remove_incomplete, step_of
from llm_pipeline.training.data import Collator, columns, encode_all, pack
from llm_pipeline.training.interrupt import EX_TEMPFAIL, Interrupt, Report, signal_on_parent_death
from llm_pipeline.training.recipe import SftRecipe, deepspeed_config


@dataclass(frozen=True)
class Job:
    """Where one run finds its input and leaves its output."""

    recipe: SftRecipe
    data: Path
    validation: Path | None
    base: Path
    out: Path

    def status(self, state: str, **details: Any) -> None:
        write_atomically(self.out / "status.json", json.dumps({"state": state, **details}))


def reporter(out: Path, pipes: Any) -> Report:
    def report(message: dict[str, Any]) -> None:
        with (out / "progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")
        if pipes is not None:
            pipes.report_custom_message(message)
        print(
            " ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in message.items()),
            file=sys.stderr,
            flush=True,
        )

    return report


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
        bf16=True,
        use_cpu=recipe.device == "cpu",
        seed=recipe.seed,
        data_seed=recipe.seed,
        save_steps=recipe.save_steps,
        save_total_limit=recipe.keep_checkpoints,
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        gradient_checkpointing=False,
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


def run(job: Job, report: Report, interrupt: Interrupt, main: bool) -> bool:
    """Train to the end or to the next interruption; True when it is done."""
    begun = time.monotonic()
    if main and (broken := remove_incomplete(job.out)):
        report({"event": "discarded", "checkpoints": ", ".join(broken)})
    trainer = make_trainer(job, report if main else lambda _: None, interrupt)
    checkpoint = last_complete(job.out)
    if main:
        report({"event": "start", "step": step_of(checkpoint) if checkpoint else 0, "setup_seconds": time.monotonic() - begun})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupt.asked:
        return False
    validation = trainer.evaluate() if trainer.eval_dataset is not None else {}
    staging, final = job.out / ".result", job.out / "result"
    trainer.save_model(str(staging / "adapter"))
    if main:
        parameters = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in trainer.model.parameters()]
        figures = {
            "steps": trainer.state.max_steps,
            "validation_loss": validation.get("eval_loss"),
            "trainable_parameters": sum(n for trainable, n in parameters if trainable),
            "parameters": sum(n for _, n in parameters),
        }
        write_atomically(staging / "figures.json", json.dumps(figures))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
        report({"event": "done", **{key: value for key, value in figures.items() if value is not None}})
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("recipe", "data", "base", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--validation", type=Path)
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by the DeepSpeed launcher")
    options = parser.parse_args(arguments)
    signal_on_parent_death(signal.SIGTERM)
    sys.modules["mlflow"] = None  # type: ignore[assignment]  # DeepSpeed would spend seconds to import it; the parent tells MLflow
    rank = int(os.environ.get("RANK", "0"))
    job = Job(load(SftRecipe, options.recipe), options.data, options.validation, options.base, options.out)
    job.out.mkdir(parents=True, exist_ok=True)
    with (job.out / f".rank-{rank}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # an earlier run on this folder may still be saving
        return _guarded(job, Interrupt(), rank == 0)


def _guarded(job: Job, interrupt: Interrupt, main: bool) -> int:
    pipes = None
    if main:
        job.status("running", pid=os.getpid())
        if "DAGSTER_PIPES_CONTEXT" in os.environ:
            from dagster_pipes import open_dagster_pipes

            pipes = open_dagster_pipes()
    try:
        done = run(job, reporter(job.out, pipes), interrupt, main)
        if main:
            job.status("done" if done else "interrupted")
        return 0 if done else EX_TEMPFAIL
    except Exception as error:
        if main:
            text = str(error) if isinstance(error, PipelineError) else traceback.format_exc()
            job.status("failed", error=text[-4000:], type=type(error).__name__)
        raise
    finally:
        if pipes is not None:
            pipes.close()


if __name__ == "__main__":
    sys.exit(main())
