"""How much memory a recipe needs in each process, before anything is loaded: it is refused with numbers when it can't fit.

States of the model after Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054, section 3), activations by the counting of Korthikanti
et al. 2022 (arXiv:2205.05198, section 4) for Llama's layers; on a GPU attention keeps no score matrix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from llm_pipeline.errors import ConfigError, TrainingError
from llm_pipeline.training.bases import base_folder, describe_model, model_folder
from llm_pipeline.training.recipe import Recipe

RUNTIME = {"cpu": 670_000_000, "cuda": 700_000_000}
"""Interpreter and libraries in a process; on a GPU its context and kernels."""
BUCKET = 20_000_000
"""Elements of DeepSpeed's reduce and gather buckets, as in `recipe.deepspeed_config`."""


@dataclass(frozen=True)
class Shape:
    """What of a Llama-like model decides its memory."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    key_values: int
    vocabulary: int
    tied: bool
    counted: int | None = None
    """Parameters found in the weight files; None: by formula."""

    @classmethod
    def of(cls, config: Mapping[str, Any], counted: int | None = None) -> Shape:
        """From `config.json`, by Llama's names or GPT-2's."""
        hidden = config.get("hidden_size") or config["n_embd"]
        heads = config.get("num_attention_heads") or config["n_head"]
        head = config.get("head_dim") or hidden // heads
        return cls(
            hidden,
            config.get("num_hidden_layers") or config["n_layer"],
            heads,
            config.get("intermediate_size") or config.get("n_inner") or 4 * hidden,
            head * (config.get("num_key_value_heads") or heads),
            config["vocab_size"],
            bool(config.get("tie_word_embeddings", True)),
            counted,
        )

    @property
    def linear(self) -> int:
        """Parameters of the linear layers, all blocks."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_values
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.counted or embeddings + self.linear + (2 * self.layers + 1) * self.hidden

    def adapter(self, recipe: Recipe) -> int:
        """Parameters that the recipe's adapter trains; all of them without one."""
        if recipe.adapter == "none":
            return self.parameters
        if recipe.adapter == "prefix":
            return recipe.virtual_tokens * self.layers * 2 * self.key_values
        if recipe.adapter == "prompt":
            return recipe.virtual_tokens * self.hidden
        attention = 2 * 2 * self.hidden + 2 * (self.hidden + self.key_values)
        return self.layers * recipe.lora.r * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True)
class Estimate:
    """Bytes in each process: on the device that computes, and in the memory of the machine beside it (`host`)."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    runtime: int
    host: int

    @property
    def states(self) -> int:
        """What training adds to a process that has loaded its libraries."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    @property
    def total(self) -> int:
        return self.states + self.runtime

    def megabytes(self) -> dict[str, int]:
        return {name: round(value / 1e6) for name, value in (asdict(self) | {"total": self.total}).items()}


def estimate(recipe: Recipe, shape: Shape, processes: int, teacher: Shape | None = None) -> Estimate:
    """The memory of one of `processes` processes over all machines."""
    stage, low = recipe.zero_stage, 2 if recipe.precision == "bf16" else 4
    trained, share = shape.adapter(recipe), 1 / processes
    frozen = 0 if recipe.adapter == "none" else shape.parameters
    width = low if stage or recipe.adapter != "none" else 4
    held = frozen * (0.6 if recipe.adapter == "qlora" else width) + trained * width
    weights = held * (share if stage == 3 else 1) + (min(trained, BUCKET) * low * 2 if stage == 3 else 0)
    gradients = trained * width * (share if stage >= 2 else 1) + (min(trained, BUCKET) * low if stage else 0)
    # Adam's moments; with ZeRO, which keeps all in one flat tensor, fp32 weights and gradients and two temporaries of the step as well
    optimizer = trained * (24 * share if stage else 8)
    moved = (optimizer if recipe.offload != "none" else 0) + (weights if recipe.offload == "parameters" else 0)
    if recipe.device == "cuda" and recipe.offload != "none":
        optimizer = 0
        weights = min(trained, BUCKET) * low * 2 if recipe.offload == "parameters" else weights
    else:
        moved = 0
    tokens = _sequences(recipe, processes) * recipe.max_length
    copies = teacher.parameters * 2 if teacher else 0
    copies += shape.parameters * width if recipe.method == "dpo" and recipe.adapter == "none" else 0
    return Estimate(
        round(weights + copies),
        round(gradients),
        round(optimizer),
        round(tokens * _activations(recipe, shape, low)),
        round(tokens * shape.vocabulary * (2 * low + 12) * (3 if teacher else 1)) if recipe.method != "reward" else 0,
        RUNTIME[recipe.device],
        round(moved + RUNTIME["cpu"]) if recipe.device == "cuda" else 0,
    )


def _sequences(recipe: Recipe, processes: int) -> int:
    """Sequences that one process computes at once."""
    rows = max(1, recipe.batch_size // (processes * recipe.accumulation))
    return rows * (2 if recipe.method in ("dpo", "reward", "kto") else 1)


def _activations(recipe: Recipe, shape: Shape, width: int) -> float:
    """Bytes per token that wait for the backward pass; the norms keep theirs in fp32, and on a CPU attention its score matrix."""
    h, f, kv = shape.hidden, shape.intermediate, shape.key_values
    layer = width * (8 * h + 4 * kv + 4 * f) + 16 * h
    layer += 5 * shape.heads * recipe.max_length if recipe.device == "cpu" else 0
    if recipe.adapter in ("lora", "qlora"):
        layer += width * (4 * h + 2 * kv + 2 * f) + 7 * 4 * recipe.lora.r  # inputs and outputs of the low-rank paths
    return shape.layers * width * h + layer if recipe.gradient_checkpointing else shape.layers * layer


def shape_of(base: Path) -> Shape:
    """The shape of a model folder, its parameters counted in the headers of its weight files."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    return Shape.of(config, describe_model(base)["parameters"] if list(base.glob("*.safetensors")) else None)


def shape_for(recipe: Recipe) -> Shape:
    """The shape of the model that the recipe trains, before it is made: of its architecture, its base, or a hub model's config."""
    if recipe.architecture is not None:
        made, vocabulary = recipe.architecture, recipe.architecture.vocabulary
        values = made.hidden_size // made.heads * made.key_value_heads
        vocabulary = vocabulary or _config(recipe)["vocab_size"]
        return Shape(made.hidden_size, made.layers, made.heads, made.intermediate_size, values, vocabulary, tied=True)
    folder = base_folder(recipe)
    shape = shape_of(folder) if folder is not None else Shape.of(_config(recipe))
    cut = recipe.distillation.layers if recipe.method == "distill" else 0
    return replace(shape, layers=cut, counted=None) if cut else shape


def _config(recipe: Recipe) -> Mapping[str, Any]:
    folder = base_folder(recipe)
    if folder is not None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        return config
    if recipe.base == "scratch":
        raise ConfigError(
            "base scratch: its model is shaped by recipes/tiny_base.yaml and small; expected architecture, a folder or a hub id"
        )
    from transformers import AutoConfig

    described: dict[str, Any] = AutoConfig.from_pretrained(recipe.base, revision=recipe.base_revision, trust_remote_code=False).to_dict()
    return described


def teacher_of(recipe: Recipe) -> Shape | None:
    return shape_of(model_folder(recipe.distillation.teacher, "distillation.teacher")) if recipe.method == "distill" else None


def free_memory(device: str) -> int | None:
    """Bytes that a process may still take: on the GPU with the least, or on this machine and in its cgroup; None where there is no GPU."""
    if device == "cuda":
        import torch

        counts = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        return min((torch.cuda.mem_get_info(i)[0] for i in counts), default=None)
    available: int = psutil.virtual_memory().available
    return min([available, *_cgroup()])


def _cgroup(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What the cgroup (version 2, then 1) leaves, its page cache counted as free; empty without a limit."""
    for limit, usage in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            most, used = (root / limit).read_text().strip(), int((root / usage).read_text())
            cache = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit() and int(most) < 1 << 60:
            return [int(most) - used + int(cache.get("inactive_file", 0))]
    return []


def refuse_what_cannot_fit(recipe: Recipe, base: Path, processes: int, here: int, free: int | None = None) -> None:
    """Raise TrainingError when `here` processes of `processes` need more than is free; call it with the libraries loaded."""
    need = estimate(recipe, shape_of(base), processes, teacher_of(recipe))
    free = free_memory(recipe.device) if free is None else free
    sharing = here if recipe.device == "cpu" else 1  # each process has a GPU of its own
    if free is not None and need.states * sharing > free:
        raise TrainingError(shortage(recipe, need, need.states * sharing, free))


def shortage(recipe: Recipe, need: Estimate, wanted: int, free: int) -> str:
    """The refusal, with what would make it smaller."""
    parts = ", ".join(f"{name} {value:,}" for name, value in need.megabytes().items() if name not in ("total", "host", "runtime"))
    advice = [
        (recipe.batch_size > recipe.accumulation * recipe.processes, "raise accumulation"),
        (not recipe.gradient_checkpointing and recipe.adapter != "prefix", "set gradient_checkpointing"),
        (recipe.adapter == "none", "train with adapter lora"),
        (recipe.zero_stage < 3 and recipe.processes > 1, "raise zero_stage"),
        (recipe.device == "cuda" and recipe.zero_stage > 0 and recipe.offload == "none", "set offload"),
        (True, "lower max_length"),
    ]
    return (
        f"not enough memory: {wanted / 1e6:,.0f} MB needed on {recipe.device}, {free / 1e6:,.0f} MB free "
        f"(each process in MB: {parts}); {', or '.join(text for holds, text in advice if holds)}"
    )
