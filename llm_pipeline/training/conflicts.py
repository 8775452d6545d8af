"""Settings of a recipe that each make sense and cannot work together, with the reason that its author is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_pipeline.training.recipe import Recipe


def conflicts(r: Recipe) -> Iterator[tuple[bool, str]]:
    """(whether it is so, why it cannot work) for every known combination."""
    quantised, prefix = r.adapter == "qlora", r.adapter == "prefix"
    yield (
        quantised and r.zero_stage == 3,
        "qlora with zero_stage 3: ZeRO 3 shards weights of one float type, 4-bit weights are packed bytes; use 0 to 2",
    )
    yield prefix and r.gradient_checkpointing, "prefix with gradient_checkpointing: the recomputed layers would not see the prefix"
    yield (
        r.virtual and r.zero_stage == 3,
        f"{r.adapter} with zero_stage 3: one process alone saves the virtual tokens, and the others would wait for ever; use 0 to 2",
    )
    yield (
        r.virtual and r.method in ("reward", "distill"),
        f"{r.method} with adapter {r.adapter}: expected none, lora or qlora, since virtual tokens would shift the positions of its loss",
    )
    yield (
        r.architecture is not None and r.adapter != "none",
        f"architecture with adapter {r.adapter}: the random weights under an adapter are never trained; expected adapter none",
    )
    yield (
        r.architecture is not None and r.method not in ("pretrain", "sft", "distill"),
        f"architecture with {r.method}: a model with random weights has no preferences to shift; expected pretrain, sft or distill",
    )
    yield r.architecture is not None and r.base == "scratch", "architecture with base scratch: expected one or the other"
    yield (
        r.method == "kto" and r.rows_per_process < 2,
        f"kto with {r.rows_per_process} row per process and step: expected at least 2, since it compares each answer with another's",
    )
    yield (
        r.method == "distill" and bool(r.distillation.layers) and (r.adapter != "none" or r.architecture is not None),
        f"distillation.layers with adapter {r.adapter}: the short model itself is trained and kept; expected adapter none, no architecture",
    )
    yield (
        r.method == "distill" and not 0 <= r.distillation.divergence <= 1,
        f"distillation.divergence: received {r.distillation.divergence}, expected 0 to 1",
    )
    yield not 0 <= r.distillation.on_policy <= 1, f"distillation.on_policy: received {r.distillation.on_policy}, expected 0 to 1"
