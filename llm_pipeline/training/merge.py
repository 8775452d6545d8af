"""The candidate: an adapter merged into its base, a folder that any engine serves without knowing how it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_pipeline.store import Artifact, Home
from llm_pipeline.training.bases import describe_model
from llm_pipeline.training.tracking import register


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write base + adapter as one model with tokenizer and generation config; the sum is taken in fp32."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(str(base))
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.to(AutoConfig.from_pretrained(str(base)).dtype or torch.bfloat16)
    merged.config.use_cache = True
    merged.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=128, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, use_cache=True
    )
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)


def make_candidate(home: Home, checkpoint: Artifact) -> Artifact:
    """The `candidate_model` artefact: `model/`, standalone."""
    base = home.artifacts.get("base_model", checkpoint.inputs["base_model"])
    lineage = {"sft_checkpoint": checkpoint.id, "base_model": base.id, "sft_dataset": checkpoint.inputs["sft_dataset"]}

    def make(folder: Path) -> dict[str, Any]:
        merge(base.file("model"), checkpoint.file("adapter"), folder / "model")
        return {**describe_model(folder / "model"), "mlflow_run_id": checkpoint.info.get("mlflow_run_id", "")}

    return home.artifacts.build("candidate_model", lineage, make)


def register_candidate(home: Home, candidate: Artifact) -> str:
    """Make the candidate a version in MLflow's registry, alias `challenger`, its data versions as tags; return the number."""
    tags = {"candidate": candidate.id, **{key: str(value) for key, value in candidate.inputs.items()}}
    return register(home.mlflow_uri, candidate.file("model"), str(candidate.info.get("mlflow_run_id", "")), tags)
