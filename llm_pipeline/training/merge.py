"""What training leaves, as a folder that any engine serves without knowing how it was trained: the candidate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from llm_pipeline.errors import ConfigError
from llm_pipeline.quiet import quiet
from llm_pipeline.store import Artifact, Home
from llm_pipeline.training.bases import describe_model
from llm_pipeline.training.tracking import register

MERGEABLE = "LORA"


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write base + adapter as one model with tokenizer and generation config; the sum is taken in fp32."""
    import torch

    quiet()
    from peft import PeftModel

    model = _class(adapter).from_pretrained(str(base), dtype=torch.float32, **_labels(adapter))
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    _write(merged, base, base, out)


def standalone(base: Path, result: Path, out: Path) -> bool:
    """Write the outcome of training as one model in the precision of `base`; False for virtual tokens, which stay an adapter.

    `result` holds `model/` (all weights were trained) or `adapter/`. Merging a 4-bit run adds its update to the base as it was
    before it was quantised.
    """
    import torch

    if not (result / "model").exists():
        if _settings(result / "adapter")["peft_type"] != MERGEABLE:
            return False
        merge(base, result / "adapter", out)
        return True
    quiet()
    trained = result / "model"
    _write(_class(trained).from_pretrained(str(trained), dtype=torch.float32), base, trained, out)
    return True


def _write(model: Any, base: Path, tokenizer_from: Path, out: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_from))
    model.to(AutoConfig.from_pretrained(str(base)).dtype or torch.bfloat16)
    model.config.use_cache = True
    if model.can_generate():
        model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=128, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, use_cache=True
        )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _settings(folder: Path) -> dict[str, Any]:
    """The adapter's or the model's own description."""
    name = "adapter_config.json" if (folder / "adapter_config.json").exists() else "config.json"
    settings: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return settings


def is_reward(folder: Path) -> bool:
    """Whether this adapter or model scores answers instead of writing them."""
    settings = _settings(folder)
    return settings.get("task_type") == "SEQ_CLS" or any("SequenceClassification" in name for name in settings.get("architectures") or ())


def _class(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if is_reward(folder) else AutoModelForCausalLM


def _labels(folder: Path) -> dict[str, int]:
    return {"num_labels": 1} if is_reward(folder) else {}


def make_candidate(home: Home, checkpoint: Artifact) -> Artifact:
    """The `candidate_model` artefact: `model/`, standalone; a reward model or a bare prefix is refused."""
    trained = checkpoint.path / ("model" if (checkpoint.path / "model").exists() else "adapter")
    if is_reward(trained):
        raise ConfigError(f"{checkpoint.kind} {checkpoint.id}: a reward model scores answers and writes none, so it is no candidate")
    kind = next(kind for kind in ("base_model", "candidate_model") if kind in checkpoint.inputs)
    lineage = {checkpoint.kind: checkpoint.id, **{k: v for k, v in checkpoint.inputs.items() if k.endswith(("_model", "_dataset"))}}

    def make(folder: Path) -> dict[str, Any]:
        if (checkpoint.path / "model").exists():
            shutil.copytree(checkpoint.path / "model", folder / "model")
        elif not standalone(home.artifacts.get(kind, checkpoint.inputs[kind]).file("model"), checkpoint.path, folder / "model"):
            raise ConfigError(
                f"{checkpoint.kind} {checkpoint.id}: trained virtual tokens cannot be merged into a model; expected lora or none"
            )
        return {**describe_model(folder / "model"), "mlflow_run_id": checkpoint.info.get("mlflow_run_id", "")}

    return home.artifacts.build("candidate_model", lineage, make)


def register_candidate(home: Home, candidate: Artifact) -> str:
    """Make the candidate a version in MLflow's registry, alias `challenger`, its data versions as tags; return the number."""
    tags = {"candidate": candidate.id, **{key: str(value) for key, value in candidate.inputs.items()}}
    return register(home.mlflow_uri, candidate.file("model"), str(candidate.info.get("mlflow_run_id", "")), tags)
