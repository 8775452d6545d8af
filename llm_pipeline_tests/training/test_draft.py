"""A draft changes the speed of greedy answers, never the answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_pipeline.errors import ConfigError
from llm_pipeline.training.chat import train_tokenizer
from llm_pipeline.training.draft import speculate
from llm_pipeline_tests.training.conftest import FACTS

QUESTIONS = [f"What is the {name}?" for name in list(FACTS)[:2]]


@pytest.mark.filterwarnings("ignore:.*assistant.*")
def test_the_model_itself_as_draft_is_always_right(small_base: Path) -> None:
    found = speculate(small_base, small_base, QUESTIONS, new_tokens=12)
    assert found.identical == found.prompts == len(QUESTIONS)
    assert found.accepted > 0.7 * found.tokens
    assert found.passes < found.tokens / 2
    assert found.accepted <= found.proposed
    assert found.row()["acceptance"] == round(found.acceptance, 4)


@pytest.mark.filterwarnings("ignore:.*assistant.*")
def test_a_draft_that_knows_nothing_costs_time_but_no_answer(small_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(small_base)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(small_base).save_pretrained(tmp_path)
    found = speculate(small_base, tmp_path, QUESTIONS, new_tokens=12)
    assert found.identical == found.prompts
    assert found.acceptance < 0.3
    assert found.passes > found.tokens * 0.6


def test_a_draft_with_another_vocabulary_is_refused(small_base: Path, tmp_path: Path) -> None:
    shutil.copytree(small_base, tmp_path / "draft")
    train_tokenizer(["a b c"], 300).save_pretrained(tmp_path / "draft")
    with pytest.raises(ConfigError, match="vocabulary"):
        speculate(small_base, tmp_path / "draft", QUESTIONS)
