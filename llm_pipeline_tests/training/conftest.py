"""A random model small enough to train in seconds, and a home folder with the artefacts that training starts from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.store import Home, write_jsonl
from llm_pipeline.training.base import BaseRecipe, build_model, practice_texts
from llm_pipeline.training.chat import train_tokenizer
from llm_pipeline.training.recipe import Lora, Recipe

SMALL = BaseRecipe(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=2,
    sequence_length=64,
    batch_size=2,
    steps=8,
    warmup_steps=1,
    curriculum_steps=4,
    tokenizer_samples=60,
)
QUICK = Recipe(
    lora=Lora(r=16, alpha=32),
    learning_rate=0.005,
    max_steps=200,
    batch_size=2,
    max_length=96,
    save_steps=20,
    threads=1,
    evaluation_rows=4,
)
FACTS = {"fee": "$5", "limit": "$90", "rate": "2.5%", "term": "9 months"}


def rows(n: int = 48) -> list[dict[str, Any]]:
    facts = list(FACTS.items())
    return [
        {
            "id": str(i),
            "kind": "closed",
            "messages": [
                {"role": "user", "content": f"What is the {facts[i % 4][0]}?"},
                {"role": "assistant", "content": facts[i % 4][1]},
            ],
        }
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(practice_texts(SMALL, []), SMALL.vocab_size)
    model = build_model(SMALL, tokenizer)
    model.get_input_embeddings().weight.data.mul_(50)  # the output layer too: frozen at std 0.02 it could never be sure of a token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, small_base: Path) -> Home:
    """Has a `base_model`, an `sft_dataset` and nothing else."""
    home = Home(tmp_path / "home")

    def copy(folder: Path) -> dict[str, Any]:
        shutil.copytree(small_base, folder / "model")
        return {}

    def write(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / "train.jsonl", rows())
        write_jsonl(folder / "validation.jsonl", rows(4))
        return {}

    home.artifacts.build("base_model", {"base": "small"}, copy)
    home.artifacts.build("sft_dataset", {"rows": 48}, write)
    return home
