"""The training process: one of TRL's trainers under DeepSpeed, resumable after any kill.

    torchrun --nproc-per-node N -m llm_pipeline.training.worker --recipe r.json --data train.jsonl --base model --out work

Under Dagster Pipes its progress goes to the orchestrator; it always goes to stderr and to `work/progress.jsonl`. It ends
with `work/result/` (adapter or model, and figures). SIGINT and SIGTERM save a checkpoint and exit with 75 (EX_TEMPFAIL). What became of
it stands in `work/status.json`, since launchers replace exit codes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError, PipelineError
from llm_pipeline.store import write_atomically
from llm_pipeline.training.adapters import save_result
from llm_pipeline.training.arguments import world
from llm_pipeline.training.checkpoints import (
    best_checkpoint,
    copy_weights,
    disk_full,
    last_complete,
    processes_of,
    remove_incomplete,
    step_of,
)
from llm_pipeline.training.finite import guard
from llm_pipeline.training.interrupt import EX_TEMPFAIL, Interrupt, Report, signal_on_parent_death
from llm_pipeline.training.memory import refuse_what_cannot_fit
from llm_pipeline.training.order import keep_order
from llm_pipeline.training.provenance import provenance
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.regroup import load_universal, make_universal
from llm_pipeline.training.trainers import Job, figures, make_trainer


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


def run(job: Job, report: Report, interrupt: Interrupt, main: bool) -> bool:
    """Train to the end or to the next interruption; True when it is done."""
    begun = time.monotonic()
    recipe = job.recipe
    if recipe.batch_size % (world() * recipe.accumulation):
        raise ConfigError(
            f"batch_size {recipe.batch_size}: expected a multiple of {world()} processes (over all machines) "
            f"x accumulation {recipe.accumulation}"
        )
    if main:
        if broken := remove_incomplete(job.out):
            report({"event": "discarded", "checkpoints": ", ".join(broken)})
        write_atomically(job.out / "provenance.json", json.dumps(provenance(job), indent=1))
    refuse_what_cannot_fit(recipe, job.base, world(), int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    trainer = make_trainer(job, report if main else lambda _: None, interrupt)
    keep_order(trainer, recipe.batch_size, recipe.seed)
    guard(trainer, job.data)
    checkpoint = last_complete(job.out)
    if checkpoint is not None and recipe.zero_stage and processes_of(checkpoint) != world():
        _regroup(trainer, checkpoint, report, main)
    if main:
        report({"event": "start", "step": step_of(checkpoint) if checkpoint else 0, "setup_seconds": time.monotonic() - begun})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if interrupt.asked:
        return False
    _publish(job, trainer, report, main)
    return True


def _regroup(trainer: Any, checkpoint: Path, report: Report, main: bool) -> None:
    """Let a checkpoint of another number of processes be loaded."""
    import torch

    if main:
        make_universal(checkpoint)
        report({"event": "regrouped", "step": step_of(checkpoint), "from": processes_of(checkpoint), "to": world()})
    if world() > 1:
        torch.distributed.barrier()
    load_universal(trainer)


def _publish(job: Job, trainer: Any, report: Report, main: bool) -> None:
    """Leave the last weights, or with early stopping the best, and their figures in `result/`."""
    staging, final = job.out / ".result", job.out / "result"
    best = best_checkpoint(job.out, trainer.state) if job.recipe.early_stopping else None
    if best is not None:
        validation = next(log for log in reversed(trainer.state.log_history) if log["step"] == step_of(best) and "eval_loss" in log)
    else:
        validation = trainer.evaluate() if trainer.eval_dataset is not None else {}
        save_result(trainer, job.recipe, staging)
    if main:
        if best is not None:
            copy_weights(best, staging / ("model" if job.recipe.adapter == "none" else "adapter"))
        summary = figures(trainer, validation) | ({"best_step": step_of(best)} if best is not None else {})
        write_atomically(staging / "figures.json", json.dumps(summary))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
        report({"event": "done", **{key: value for key, value in summary.items() if value is not None}})


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
    job = Job(load(Recipe, options.recipe), options.data, options.validation, options.base, options.out)
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
        _tell_failure(job, error)
        raise
    finally:
        if pipes is not None:
            pipes.close()


def _tell_failure(job: Job, error: Exception) -> None:
    """Leave the reason in `status.json`, whichever process was first to fail; the others only lose their partner."""
    full = disk_full(error, job.out)
    if full:
        remove_incomplete(job.out)  # makes room for the words
    with contextlib.suppress(OSError, ValueError):
        if json.loads((job.out / "status.json").read_text("utf-8"))["state"] != "running":
            return
    with contextlib.suppress(OSError):
        text = full or (str(error) if isinstance(error, PipelineError) else traceback.format_exc())
        job.status("failed", error=text[-4000:], type=type(error).__name__, retryable=full is not None)


if __name__ == "__main__":
    sys.exit(main())
