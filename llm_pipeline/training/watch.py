"""What happens between two training steps: progress is told, checkpoints are sealed, a signal is obeyed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from llm_pipeline.training.checkpoints import seal
from llm_pipeline.training.interrupt import Interrupt, Report


class Watch(TrainerCallback):
    """Reports progress, seals checkpoints, and stops the run between two steps when a signal asked for it."""

    def __init__(self, report: Report, interrupt: Interrupt, tokens_per_step: float) -> None:
        self.report, self.interrupt, self.tokens_per_step = report, interrupt, tokens_per_step
        self.started, self.first = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked = torch.tensor(int(self.interrupt.asked))
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
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
            self.report({"event": "checkpoint", "step": state.global_step})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if args.process_index == 0 and logs and "loss" in logs:
            self.report(self._progress(state, logs))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any) -> None:
        if args.process_index == 0 and metrics and "eval_loss" in metrics:
            self.report({"event": "validation", "step": state.global_step, "validation_loss": float(metrics["eval_loss"])})

    def _progress(self, state: Any, logs: dict[str, Any]) -> dict[str, Any]:
        seconds = time.monotonic() - self.started
        done = state.global_step - self.first
        return {
            "event": "progress",
            "step": state.global_step,
            "steps": state.max_steps,
            "epoch": round(float(state.epoch or 0), 3),
            "loss": float(logs["loss"]),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": float(logs.get("grad_norm", 0.0)),
            "token_accuracy": float(logs.get("mean_token_accuracy", 0.0)),
            "tokens_per_second": done * self.tokens_per_step / seconds,
            "eta_seconds": (state.max_steps - state.global_step) * seconds / max(1, done),
            "seconds": seconds,
        }
