"""A tiny random model, and one real endpoint that serves it to the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llm_pipeline.records import Release
from llm_pipeline.serving.guardrails import build_policy
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.release import POLICY, PROMPT, spec_of
from llm_pipeline.serving.traffic.state import Spec
from llm_pipeline.store import Home


def save_model(folder: Path, seed: int) -> Path:
    """A random model that babbles ordinary tokens: with tied embeddings it would only repeat the last control token."""
    import torch

    from llm_pipeline.training.base import BaseRecipe, build_model, practice_texts
    from llm_pipeline.training.chat import SPECIAL_TOKENS, train_tokenizer

    recipe = BaseRecipe(seed=seed, hidden_size=32, intermediate_size=64, layers=2, heads=2, vocab_size=500, tokenizer_samples=60)
    tokenizer = train_tokenizer(practice_texts(recipe, []), recipe.vocab_size)
    model = build_model(recipe, tokenizer)
    model.config.tie_word_embeddings = False
    head = torch.randn(len(tokenizer), recipe.hidden_size)
    head[: len(SPECIAL_TOKENS)] = 0.0
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), 0)


@dataclass
class Live:
    home: Home
    endpoint: client.Endpoint
    release: Release
    spec: Spec


def make_release(model: Path, name: str = "first") -> tuple[Release, Spec]:
    from dataclasses import asdict

    from llm_pipeline.prompts import load_prompt
    from llm_pipeline.serving.guardrails import load_policy

    prompt, policy = load_prompt(PROMPT), build_policy(asdict(load_policy(POLICY)))
    return Release(name, prompt.id, None, policy.id, {"name": "transformers"}), spec_of(model, prompt, policy)


@pytest.fixture(scope="session")
def live(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Supervisor, two gateways and one engine, with all traffic on the random model."""
    home = Home(tmp_path_factory.mktemp("home"))
    try:
        endpoint = client.ensure_up(home, timeout=180, gateways=2)
        release, spec = make_release(model)
        rollout = client.wait(home, client.deploy(home, release, spec), 240)
        assert rollout.status == "promoted", rollout
        yield Live(home, endpoint, release, spec)
    finally:
        client.down(home)
