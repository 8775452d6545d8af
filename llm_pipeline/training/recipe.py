"""What a fine-tuning run is asked to do: every number that decides the weights stands in one YAML file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import load, load_yaml
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import RECIPES
from llm_pipeline.training.conflicts import conflicts

Method = Literal["sft", "pretrain", "dpo", "kto", "reward", "distill"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021); `targets` names the layers, or is `all-linear`."""

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"


@dataclass(frozen=True)
class Preference:
    """How DPO (Rafailov et al. 2023, arXiv:2305.18290) and KTO (Ethayarajh et al. 2024, arXiv:2402.01306) weigh feedback."""

    beta: float = 0.1
    """How closely the model stays with the one that it starts from."""
    desirable_weight: float = 1.0
    """KTO: what a liked answer counts in the loss."""
    undesirable_weight: float = 1.0


@dataclass(frozen=True)
class Distillation:
    """Generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649) from a model with the same tokenizer."""

    teacher: str = "shipped"
    """`shipped` or a model folder."""
    layers: int = 0
    """How many layers of the base, evenly spaced, the student keeps; 0: all."""
    divergence: float = 0.5
    """0 is forward KL, 1 reverse KL, between them a Jensen-Shannon divergence."""
    on_policy: float = 0.0
    """Share of the steps on answers that the student samples itself, instead of those of the rows."""
    new_tokens: int = 64
    """Longest sampled answer."""


@dataclass(frozen=True)
class Architecture:
    """A Llama whose weights start random."""

    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 4
    context: int = 1024
    vocabulary: int = 0
    """Entries of a tokenizer trained on the rows; 0: the tokenizer of `base`."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.heads or self.heads % self.key_value_heads:
            raise ConfigError(
                f"architecture: expected heads to divide hidden_size {self.hidden_size} and key_value_heads to divide heads, "
                f"received {self.heads} and {self.key_value_heads}"
            )


@dataclass(frozen=True)
class Recipe:
    """One training run by one method.

    `base` is `shipped` (the model in data/models/tiny_base), a local folder, a hub id, or `scratch` (pretrain
    recipes/tiny_base.yaml on the snapshot first). `batch_size` counts rows over all processes (packed rows of `max_length`
    tokens for sft and pretrain), so the number of processes changes the speed but not the optimisation. `max_steps` beats
    `epochs`. `threads` is per process; 0 shares the cores of the machine among the processes.
    """

    description: str = ""
    method: Method = "sft"
    base: str = "shipped"
    base_revision: str | None = None
    adapter: Literal["none", "lora", "qlora", "prefix", "prompt"] = "lora"
    """What is trained: all weights (`none`), low-rank updates (over 4-bit weights with `qlora`), or virtual tokens."""
    lora: Lora = field(default_factory=Lora)
    virtual_tokens: int = 16
    """Length of a trained prefix or prompt, in tokens."""
    preference: Preference = field(default_factory=Preference)
    distillation: Distillation = field(default_factory=Distillation)
    architecture: Architecture | None = None
    """Train from random weights of this shape; None: from the weights of `base`."""
    learning_rate: float = 2e-3
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_share: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: float = 2.0
    max_steps: int = 0
    batch_size: int = 8
    accumulation: int = 1
    max_length: int = 384
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What ZeRO keeps in the memory of the CPU: optimiser states (stages 1 to 3), parameters as well (stage 3)."""
    processes: int = 1
    """Processes on each machine."""
    hostfile: str | None = None
    """DeepSpeed's list of machines, lines of `name slots=N`; None: this machine only."""
    launcher: Literal["torchrun", "deepspeed"] = "torchrun"
    threads: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    price_per_device_hour: float = 0.0
    """For the cost that is shown while it trains; the currency is yours."""
    save_steps: int = 50
    logging_steps: int = 5
    keep_checkpoints: int = 2
    evaluation_rows: int = 128
    evaluation_steps: int = 0
    """Steps between validations; 0: only at the end."""
    early_stopping: int = 0
    """Validations without a better loss after which training ends with the best weights; 0: never."""

    def __post_init__(self) -> None:
        step = self.processes * self.accumulation
        if step < 1 or self.batch_size % step:
            raise ConfigError(f"batch_size {self.batch_size}: expected a multiple of processes x accumulation = {step}")
        for name in ("save_steps", "logging_steps", "max_length", "keep_checkpoints", "virtual_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: received {getattr(self, name)}, expected at least 1")
        if self.max_steps <= 0 and self.epochs <= 0:
            raise ConfigError("one of max_steps and epochs must be positive")
        if self.offload != "none" and self.zero_stage < (3 if self.offload == "parameters" else 1):
            raise ConfigError(
                f"offload {self.offload} with zero_stage {self.zero_stage}: expected stage 1 to 3 for optimizer, 3 for parameters"
            )
        if self.early_stopping and not self.evaluation_steps:
            raise ConfigError(f"early_stopping {self.early_stopping}: expected evaluation_steps above 0")
        if self.early_stopping and self.save_steps % self.evaluation_steps:
            raise ConfigError(
                f"save_steps {self.save_steps}: expected a multiple of evaluation_steps {self.evaluation_steps}, "
                "since early_stopping goes back to the best checkpoint"
            )
        if reason := next((reason for does_not_work, reason in conflicts(self) if does_not_work), None):
            raise ConfigError(reason)

    @property
    def virtual(self) -> bool:
        """Whether virtual tokens are trained, which rows with positions of their own (packed ones) can't take."""
        return self.adapter in ("prefix", "prompt")

    @property
    def rows_per_process(self) -> int:
        return self.batch_size // (self.processes * self.accumulation)

    def inputs(self) -> dict[str, Any]:
        """What decides the weights: all but where, how often it saves and logs, and how many of its checkpoints it keeps.

        The base and the teacher are not named here but by the hash of their content. Blocks that the method does not read are
        left out.
        """
        kept = {key: value for key, value in asdict(self).items() if key not in _SILENT}
        unread = {
            "lora": self.adapter not in ("lora", "qlora"),
            "virtual_tokens": not self.virtual,
            "preference": self.method not in ("dpo", "kto"),
            "distillation": self.method != "distill",
            "architecture": self.architecture is None,
        }
        kept = {key: value for key, value in kept.items() if not unread.get(key)}
        if "distillation" in kept:
            kept["distillation"] = {key: value for key, value in kept["distillation"].items() if key != "teacher"}
        return kept


_SILENT = {
    "description",
    "save_steps",
    "logging_steps",
    "keep_checkpoints",
    "threads",
    "launcher",
    "base",
    "base_revision",
    "evaluation_rows",
    "price_per_device_hour",
    "hostfile",
    "processes",
}


def load_recipe(name: str | Path = "tiny_cpu", overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """A recipe by the name of a file in llm_pipeline/recipes, or by path; `overrides` are `dotted.key=value`."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    return load(Recipe, path, overrides)


def catalogue() -> dict[str, Recipe]:
    """The shipped recipes by name; other settings in the same folder (a search, the base model's curriculum) are no recipes."""
    known = {entry.name for entry in fields(Recipe)}
    paths = [path for path in sorted(RECIPES.glob("*.yaml")) if load_yaml(path).keys() <= known]
    return {path.stem: load(Recipe, path) for path in paths}


def deepspeed_config(recipe: Recipe) -> dict[str, Any]:
    """ZeRO (Rajbhandari et al. 2020): optimiser state, gradients and, from stage 3, weights are sharded over the processes."""
    on_cpu = {"device": "cpu", "pin_memory": recipe.device != "cpu"}
    offload = {"offload_optimizer": on_cpu} if recipe.offload != "none" else {}
    offload |= {"offload_param": on_cpu} if recipe.offload == "parameters" else {}
    return {
        "zero_optimization": {
            "stage": recipe.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": 20_000_000,
            "allgather_bucket_size": 20_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
            **offload,
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": recipe.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": 1_000_000_000,
    }
