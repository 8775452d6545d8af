"""The base model as an artefact: the shipped one, a local folder, a hub model, or one pretrained here from nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError, MissingError
from llm_pipeline.paths import DATA, RECIPES
from llm_pipeline.store import Artifact, Home, content_hash, file_hash
from llm_pipeline.training.recipe import Recipe

SHIPPED = DATA / "models" / "tiny_base"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


def base_folder(recipe: Recipe) -> Path | None:
    """The local folder that the recipe names; None for `scratch` and hub ids."""
    if recipe.base == "scratch" or is_hub_id(recipe.base):
        return None
    return model_folder(recipe.base, "base")


def model_folder(name: str, what: str) -> Path:
    """The folder of a model named `shipped` or by path; `what` names the setting in errors."""
    folder = SHIPPED if name == "shipped" else Path(name)
    if not (folder / "config.json").exists():
        raise MissingError(
            f"{what} {name!r}: no config.json in {folder}; expected shipped, scratch, a model folder or a hub id (owner/name)"
        )
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(f"{what} {name!r}: {folder} has no .safetensors weights; pickled weights are never loaded")
    return folder


def starting_model(recipe: Recipe, base: Path, data: Path, work: Path) -> Path:
    """The folder that training starts from: `base`, or made from it in `work` when the recipe wants another architecture."""
    folder = work / "start"
    if recipe.architecture is None and not (recipe.method == "distill" and recipe.distillation.layers):
        return base
    if not folder.exists():
        staging = work / ".start"
        shutil.rmtree(staging, ignore_errors=True)
        if recipe.architecture is not None:
            from llm_pipeline.training.fresh import make_model

            make_model(recipe, recipe.architecture, base, data, staging)
        else:
            from llm_pipeline.training.distillation import cut_layers

            cut_layers(base, recipe.distillation.layers, staging)
        staging.rename(folder)
    return folder


def is_hub_id(base: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", base) is not None and not Path(base).exists()


def make_tokenizer(home: Home, recipe: Recipe, pretraining: Path = RECIPES / "tiny_base.yaml") -> Artifact:
    """The `tokenizer` artefact (`tokenizer/`): the base model's own, or for `scratch` a BPE trained with the snapshot's text."""
    if recipe.base != "scratch":
        base = make_base(home, recipe, pretraining)
        source = base.file("model")

        def copy(folder: Path) -> dict[str, Any]:
            (folder / "tokenizer").mkdir()
            for name in TOKENIZER_FILES:
                if (source / name).exists():
                    shutil.copy2(source / name, folder / "tokenizer" / name)
            return _describe_tokenizer(folder / "tokenizer")

        content = content_hash(*[file_hash(source / name) for name in TOKENIZER_FILES if (source / name).exists()])
        return home.artifacts.build("tokenizer", {"base": recipe.base, "content": content}, copy)
    from llm_pipeline.training.base import BaseRecipe, practice_texts
    from llm_pipeline.training.chat import train_tokenizer

    plan = load(BaseRecipe, pretraining)
    snapshot = home.artifacts.named("corpus_snapshot")

    def make(folder: Path) -> dict[str, Any]:
        train_tokenizer(practice_texts(plan, prose(snapshot)), plan.vocab_size).save_pretrained(folder / "tokenizer")
        return _describe_tokenizer(folder / "tokenizer")

    return home.artifacts.build("tokenizer", {"base": "scratch", "snapshot": snapshot.id, "recipe": file_hash(pretraining)}, make)


def make_base(home: Home, recipe: Recipe, pretraining: Path = RECIPES / "tiny_base.yaml") -> Artifact:
    """The `base_model` artefact: a standalone model folder in `model/`."""
    if recipe.base == "scratch":
        return _pretrain(home, pretraining)
    folder = base_folder(recipe)
    if folder is None:
        return home.artifacts.build(
            "base_model", {"hub": recipe.base, "revision": recipe.base_revision}, lambda out: from_hub(recipe, out / "model")
        )

    def copy(out: Path) -> dict[str, Any]:
        shutil.copytree(folder, out / "model", ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.pkl"))
        return describe_model(out / "model")

    return home.artifacts.build("base_model", {"base": recipe.base, "content": file_hash(folder)}, copy)


def from_hub(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Download the model and its tokenizer, without any code of theirs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"revision": recipe.base_revision, "trust_remote_code": False}
    AutoModelForCausalLM.from_pretrained(recipe.base, use_safetensors=True, dtype="auto", **options).save_pretrained(out)
    AutoTokenizer.from_pretrained(recipe.base, **options).save_pretrained(out)
    return describe_model(out)


def _pretrain(home: Home, pretraining: Path) -> Artifact:
    from llm_pipeline.training.base import BaseRecipe, train_base

    plan = load(BaseRecipe, pretraining)
    snapshot = home.artifacts.named("corpus_snapshot")
    inputs = {"base": "scratch", "snapshot": snapshot.id, "recipe": file_hash(pretraining)}
    work = home.root / "work" / "base" / content_hash(inputs)

    def make(out: Path) -> dict[str, Any]:
        import torch

        trainer = train_base(plan, prose(snapshot), work, resume=any(work.glob("checkpoint-*/trainer_state.json")))
        trainer.model.to(torch.bfloat16).save_pretrained(out / "model")
        trainer.processing_class.save_pretrained(out / "model")
        return describe_model(out / "model")

    artifact = home.artifacts.build("base_model", inputs, make)
    shutil.rmtree(work, ignore_errors=True)
    return artifact


def prose(snapshot: Artifact) -> list[str]:
    import pyarrow.parquet as pq

    texts = pq.read_table(snapshot.file("documents.parquet"), columns=["text"])["text"].to_pylist()
    return [text for text in texts if text]


def describe_model(folder: Path) -> dict[str, Any]:
    """Parameters and sizes, read from the weight files' headers."""
    import json
    import math

    from safetensors import safe_open

    parameters = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    config = json.loads((folder / "config.json").read_text("utf-8"))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"parameters": parameters, "megabytes": round(size / 1e6, 2), "architecture": config.get("architectures", ["?"])[0]}


def _describe_tokenizer(folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return {"vocabulary": len(tokenizer), "end_token": tokenizer.eos_token, "has_chat_template": tokenizer.chat_template is not None}
