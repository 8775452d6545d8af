"""A 1B-class Llama with random weights through our trainer: LoRA and full fine-tuning, per ZeRO stage, on one GPU.

Model FLOPs utilisation counts what the mathematics needs, not what is recomputed (Chowdhery et al. 2022, appendix B). Per token:
6 FLOPs a parameter for full training, 4 for LoRA (frozen weights need no gradients of their own), and 6 x layers x width x length
for causal attention in both.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llm_pipeline.store import write_jsonl
from llm_pipeline.training.bases import SHIPPED
from llm_pipeline.training.recipe import Lora, Recipe

PEAK_TFLOPS = {"B200": 2250.0, "H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}
"""Dense bf16, from the makers' data sheets."""
BILLION = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
TOY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
VOCABULARY = 32_000


def compare_stages(toy: bool, steps: int, peak_tflops: float) -> None:
    """Print tokens/s, utilisation and peak memory for LoRA and full fine-tuning under each stage."""
    import torch

    from llm_pipeline_tests.benchmarks.bench_training import demo_rows, run_alone

    cuda = torch.cuda.is_available()
    if not cuda and not toy:
        raise SystemExit("no GPU here: this part needs one (or --toy, a tiny model that only shows that the code runs)")
    shape, length = (TOY, 128) if toy else (BILLION, 2048)
    peak = peak_tflops or (_peak(torch.cuda.get_device_name()) if cuda else 0.0)
    table = Table(
        "training",
        "ZeRO",
        "tokens/s",
        "utilisation",
        "peak memory GB",
        title=f"{torch.cuda.get_device_name() if cuda else 'CPU'}, rows of {length}",
    )
    with tempfile.TemporaryDirectory() as folder:
        base, data = Path(folder) / "base", Path(folder) / "train.jsonl"
        parameters = make_random(shape, length, base)
        write_jsonl(data, demo_rows(1 if toy else 7))
        for adapter in ("lora", "none"):
            for stage in (0, 1, 2, 3):
                recipe = plan(adapter, stage, length, steps, cuda, toy)
                result = run_alone("ours", recipe, data, base)
                rate = result["tokens_per_second"]
                used = rate * flops_per_token(parameters, shape, length, adapter == "lora") / (peak * 1e12) if peak else None
                table.add_row(
                    "full" if adapter == "none" else adapter,
                    str(stage),
                    f"{rate:,.0f}",
                    f"{used:.1%}" if used is not None else "",
                    f"{result['peak_gigabytes']:.1f}" if cuda else "",
                )
    Console().print(table)


def plan(adapter: Any, stage: Any, length: int, steps: int, cuda: bool, toy: bool) -> Recipe:
    return Recipe(
        adapter=adapter, lora=Lora(r=16, alpha=32), learning_rate=1e-5, max_steps=steps, batch_size=2 if toy else 8, max_length=length,
        zero_stage=stage, device="cuda" if cuda else "cpu", save_steps=10**6, logging_steps=4, threads=0, evaluation_rows=0,
    )  # fmt: skip


def make_random(shape: dict[str, int], length: int, out: Path) -> int:
    """Write a Llama with random bf16 weights and the shipped tokenizer; return its number of parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    config = LlamaConfig(
        **shape, vocab_size=VOCABULARY, max_position_embeddings=length, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(parameters: int, shape: dict[str, int], length: int, lora: bool) -> float:
    attention = shape["num_hidden_layers"] * shape["hidden_size"] * length
    return (4 if lora else 6) * parameters + 6 * attention


def _peak(name: str) -> float:
    known = [peak for part, peak in PEAK_TFLOPS.items() if part in name]
    if not known:
        raise SystemExit(f"{name}: its peak is not known here; give it by --peak-tflops (dense bf16), known: {json.dumps(PEAK_TFLOPS)}")
    return known[0]
