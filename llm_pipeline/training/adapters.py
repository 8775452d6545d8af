"""The weights of a run: which model is loaded, in which precision, and which adapter of PEFT is trained on it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_pipeline.errors import TrainingError
from llm_pipeline.training.recipe import Recipe


def load_tokenizer(base: Path) -> Any:
    """The tokenizer of a model folder; where it has no token for padding, its end token pads."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(recipe: Recipe, base: Path) -> Any:
    """The model that `recipe` trains: a language model, or for rewards one with a single score."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, set_seed

    set_seed(recipe.seed)  # the score of a reward model starts random
    options: dict[str, Any] = {"attn_implementation": "sdpa", "dtype": dtype(recipe)}
    if recipe.adapter == "qlora":
        options |= {"quantization_config": quantisation(recipe.device)}
    if recipe.method == "reward":
        return AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=1, **options)
    return AutoModelForCausalLM.from_pretrained(str(base), **options)


def dtype(recipe: Recipe) -> Any:
    """Weights that are trained themselves are held in fp32 (bf16 would swallow their small updates); frozen ones as they come."""
    import torch

    return torch.float32 if recipe.adapter == "none" or recipe.precision == "fp32" else "auto"


def quantisation(device: str) -> Any:
    """4-bit NormalFloat with doubly quantised scales, computing in bf16 (Dettmers et al. 2023, arXiv:2305.14314)."""
    import torch
    from transformers import BitsAndBytesConfig

    check_quantisation(device)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )


def check_quantisation(device: str) -> None:
    """Raise TrainingError unless bitsandbytes can hold and multiply a 4-bit weight on `device`."""
    import torch

    if find_spec("bitsandbytes") is None:
        raise TrainingError("adapter qlora: bitsandbytes is not installed; install it, or train with adapter lora")
    try:
        from bitsandbytes.nn import modules

        linear: Any = modules.Linear4bit
        layer = linear(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16).to(device)
        layer(torch.ones(1, 64, dtype=torch.bfloat16, device=device))
    except Exception as error:
        raise TrainingError(f"adapter qlora: bitsandbytes cannot compute on {device} here ({error}); train with adapter lora") from error


def peft_config(recipe: Recipe) -> Any:
    """PEFT's description of the adapter; None where all weights are trained."""
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

    task = "SEQ_CLS" if recipe.method == "reward" else "CAUSAL_LM"
    if recipe.adapter == "none":
        return None
    if recipe.adapter == "prefix":  # Li and Liang 2021, arXiv:2101.00190
        return PrefixTuningConfig(task_type=task, num_virtual_tokens=recipe.virtual_tokens)
    if recipe.adapter == "prompt":  # Lester et al. 2021, arXiv:2104.08691
        return PromptTuningConfig(task_type=task, num_virtual_tokens=recipe.virtual_tokens)
    return LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
        task_type=task,
        modules_to_save=["score"] if recipe.method == "reward" else None,
    )


def save_result(trainer: Any, recipe: Recipe, folder: Path) -> None:
    """Write what was trained, with the tokenizer: `adapter/`, or `model/` where all weights were."""
    trainer.save_model(str(folder / ("model" if recipe.adapter == "none" else "adapter")))
