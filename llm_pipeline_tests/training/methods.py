"""Rows for every method, and a shipped recipe made small enough to train in a second inside the test's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_pipeline.store import write_jsonl
from llm_pipeline.training.adapters import save_result
from llm_pipeline.training.bases import starting_model
from llm_pipeline.training.interrupt import Interrupt
from llm_pipeline.training.recipe import Method, Recipe, load_recipe
from llm_pipeline.training.trainers import Job, make_trainer
from llm_pipeline_tests.training.conftest import FACTS, rows

FACT = list(FACTS.items())
PAIRS = [{"prompt": f"What is the {FACT[i % 4][0]}?", "chosen": FACT[i % 4][1], "rejected": FACT[(i + 1) % 4][1]} for i in range(16)]
ROWS: dict[Method, list[dict[str, Any]]] = {
    "sft": rows(16),
    "distill": rows(16),
    "pretrain": [{"id": str(i), "text": f"The fee is $5 and the limit is $90; this is text {i}. " * 4} for i in range(12)],
    "dpo": PAIRS,
    "reward": PAIRS,
    "kto": [
        {"prompt": pair["prompt"], "completion": pair["chosen" if i % 3 else "rejected"], "label": bool(i % 3)}
        for i, pair in enumerate(PAIRS)
    ],
}
SMALL = (
    "max_steps=3 batch_size=4 accumulation=1 max_length=96 logging_steps=1 save_steps=3 threads=1 evaluation_rows=4 zero_stage=0 "
    "learning_rate=0.01 warmup_share=0 virtual_tokens=4"
).split()
ADAPTED = ["lora.r=4", "lora.alpha=8"]
FRESH = "hidden_size=32 intermediate_size=64 layers=2 heads=2 key_value_heads=2 vocabulary=300".split()


class Undisturbed(Interrupt):
    """No signal handlers in the process of the tests."""

    def __init__(self) -> None:
        self.asked = False


def small(name: str, base: Path, *overrides: str) -> Recipe:
    """The shipped recipe `name` on `base`, with everything that costs time reduced."""
    shipped = load_recipe(name)
    chosen = [f"base={base}", *SMALL, *(ADAPTED if shipped.adapter in ("lora", "qlora") else [])]
    chosen += [f"distillation.teacher={base}", "distillation.layers=1"] if shipped.method == "distill" else []
    chosen += [f"architecture.{size}" for size in FRESH] if shipped.architecture else []
    return load_recipe(name, [*chosen, *overrides])


def prepared(recipe: Recipe, base: Path, out: Path, messages: list[dict[str, Any]] | None = None) -> Any:
    """The real trainer of the recipe on the rows of its method, not yet run."""
    data = out / "train.jsonl"
    write_jsonl(data, ROWS[recipe.method])
    start = starting_model(recipe, base, data, out)
    told = messages if messages is not None else []
    return make_trainer(Job(recipe, data, data, start, out), told.append, Undisturbed())


def finish(trainer: Any, recipe: Recipe, out: Path) -> Path:
    """Train to the end and save as the worker does; return the folder of the result."""
    trainer.train()
    save_result(trainer, recipe, out / "result")
    return out / "result"
