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
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.config import load
from llm_pipeline.errors import PipelineError
from llm_pipeline.store import write_atomically
from llm_pipeline.training.checkpoints import last_complete, remove_incomplete, step_of
from llm_pipeline.training.interrupt import EX_TEMPFAIL, Interrupt, Report, signal_on_parent_death
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.trainers import Job, make_trainer


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
        if main:
            text = str(error) if isinstance(error, PipelineError) else traceback.format_exc()
            job.status("failed", error=text[-4000:], type=type(error).__name__)
        raise
    finally:
        if pipes is not None:
            pipes.close()


if __name__ == "__main__":
    sys.exit(main())
