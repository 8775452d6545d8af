"""Post-training quantisation by bitsandbytes: the linear layers in 8 or 4 bits, a folder that transformers loads like any model.

int8 is LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339): rows scaled by their largest value, outlying features kept in 16 bits.
int4 is NormalFloat in blocks of 64 (Dettmers et al. 2023, arXiv:2305.14314). Embeddings, norms and the output layer stay in 16 bits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.errors import InputError
from llm_pipeline.quiet import quiet
from llm_pipeline.store import Artifact, Home

Bits = Literal[4, 8]
VERSION = 1
"""Raised when the same model would be quantised to other weights."""


def quantize(model: Path, out: Path, bits: Bits) -> None:
    """Write `model` with its linear layers in `bits` bits, and its tokenizer, to the new folder `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quiet()
    config = read_config(model)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise InputError(f"{model}: quantised already (by {method}); expected a model with weights of 16 or 32 bits")
    if bits == 8:
        plan, dtype = BitsAndBytesConfig(load_in_8bit=True), torch.float16  # what its kernels multiply outliers in
    else:
        plan = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        dtype = torch.bfloat16
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    loaded = AutoModelForCausalLM.from_pretrained(
        str(model), quantization_config=plan, dtype=dtype, device_map={"": device}, use_safetensors=True, trust_remote_code=False
    )
    # Saved before its first forward pass: on CPUs with AVX-512 that pass packs 4-bit weights anew, which a saved copy would not survive.
    loaded.save_pretrained(out)
    AutoTokenizer.from_pretrained(str(model), trust_remote_code=False).save_pretrained(out)


def read_config(model: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{model}: not a model folder (it has no config.json)") from None
    if not list(model.glob("*.safetensors")):
        raise InputError(f"{model}: no .safetensors weights; pickled weights are never loaded")
    return config


def folder_megabytes(model: Path) -> float:
    """What the weights take on disk."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors")) / 1e6


def make_quantized(home: Home, candidate: Artifact) -> Artifact:
    """The `quantized_model` artefact of a candidate: `int8/` and `int4/`, each standalone."""

    def make(folder: Path) -> dict[str, Any]:
        sizes = {}
        for bits in (8, 4):
            quantize(candidate.file("model"), folder / f"int{bits}", bits)
            sizes[f"int{bits}_megabytes"] = round(folder_megabytes(folder / f"int{bits}"), 3)
        return {"megabytes": round(folder_megabytes(candidate.file("model")), 3), **sizes}

    return home.artifacts.build("quantized_model", {"candidate_model": candidate.id, "version": VERSION}, make)


def replace_folder(model: Path, out: Path, bits: Bits) -> None:
    """Quantise into `out` so that it appears whole or not at all."""
    if out.exists() and not (out / "config.json").is_file() and any(out.iterdir()):
        raise InputError(f"{out}: a folder with other things in it; expected a new one, or a model to replace")
    staging = out.with_name(f".{out.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        quantize(model, staging, bits)
        shutil.rmtree(out, ignore_errors=True)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
