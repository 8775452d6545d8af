"""What happens between two training steps: progress is told, checkpoints are sealed and thinned out, a signal is obeyed."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from llm_pipeline.training.checkpoints import keep, seal
from llm_pipeline.training.interrupt import Interrupt, Report
from llm_pipeline.training.recipe import Recipe


class Watch(TrainerCallback):
    """Reports progress, seals checkpoints, and stops the run between two steps when a signal asked for it."""

    def __init__(self, report: Report, interrupt: Interrupt, tokens_per_step: float, recipe: Recipe) -> None:
        self.report, self.interrupt, self.tokens_per_step, self.recipe = report, interrupt, tokens_per_step, recipe
        self.started, self.first, self.spent_before = 0.0, 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step
        self.spent_before = device_hours(Path(args.output_dir))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked = torch.tensor(int(self.interrupt.asked), device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
        if asked.item() and state.global_step < state.max_steps:
            self.interrupt.asked = control.should_save = control.should_training_stop = True
        else:
            self.interrupt.asked = self.interrupt.asked and state.global_step < state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.process_index == 0:
            folder = Path(args.output_dir)
            seal(folder / f"checkpoint-{state.global_step}", args.world_size)
            keep(folder, self.recipe.keep_checkpoints, f"checkpoint-{state.best_global_step}")
            self.report({"event": "checkpoint", "step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if args.process_index == 0 and logs and "loss" in logs:
            self.report(self._progress(args, state, logs))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any) -> None:
        if not metrics or "eval_loss" not in metrics:
            return
        loss = float(metrics["eval_loss"])
        if self.recipe.early_stopping and (state.best_metric is None or loss < state.best_metric):
            control.should_save = True  # the best weights are the result, so they must be on the disk
        if args.process_index == 0:
            self.report({"event": "validation", "step": state.global_step, "validation_loss": loss})

    def _progress(self, args: Any, state: Any, logs: dict[str, Any]) -> dict[str, Any]:
        seconds = time.monotonic() - self.started
        done = state.global_step - self.first
        spent = self.spent_before + seconds * args.world_size / 3600
        return {
            "event": "progress",
            "step": state.global_step,
            "steps": state.max_steps,
            "epoch": round(float(state.epoch or 0), 3),
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs.get("grad_norm", 0.0)),
            **({"token_accuracy": float(logs["mean_token_accuracy"])} if "mean_token_accuracy" in logs else {}),
            "tokens_per_second": done * self.tokens_per_step / seconds,
            "eta_seconds": (state.max_steps - state.global_step) * seconds / max(1, done),
            "seconds": seconds,
            "peak_memory_megabytes": peak_memory(args.device) / 1e6,
            "device_hours": spent,
            "cost": spent * self.recipe.price_per_device_hour,
        }


def peak_memory(device: Any) -> int:
    """The most bytes that this process has held so far, on its GPU where it has one."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_hours(work: Path) -> float:
    """Process-hours that the runs in this folder have reported so far, those lost to a kill included."""
    spent = 0.0
    if (work / "progress.jsonl").exists():
        for line in (work / "progress.jsonl").read_text("utf-8").splitlines():
            if '"device_hours"' in line and line.endswith("}"):
                spent = float(json.loads(line)["device_hours"])
    return spent
