"""Trained, merged and served say the same; a mistake in merging is seen at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llm_pipeline.training.merge import merge
from llm_pipeline.training.parity import Difference, compare_ways

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # PEFT asks by the old name
QUESTIONS = ("What is the fee?", "What is the limit of the Harbor Card?", "When?")


@pytest.fixture(scope="module")
def trained(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `adapter/`, as strong as a trained one."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32),
        LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.3
    model.save_pretrained(folder / "adapter")
    return folder


def by_name(found: list[Difference]) -> dict[str, Difference]:
    return {difference.name: difference for difference in found}


def test_every_way_to_run_a_merged_model_agrees_with_the_trained_one(small_base: Path, trained: Path, tmp_path: Path) -> None:
    merge(small_base, trained / "adapter", tmp_path / "model")
    found = by_name(compare_ways(small_base, trained, tmp_path / "model", QUESTIONS))
    assert set(found) == {"merged, float32", "merged, bfloat16", "served, float32"}
    assert all(difference.holds for difference in found.values()), found
    assert found["merged, float32"].mean <= found["merged, bfloat16"].mean
    assert found["served, float32"].equal_answers == found["merged, float32"].equal_answers
    assert all(difference.prompts == len(QUESTIONS) for difference in found.values())


def test_a_lost_adapter_or_another_scale_does_not_pass(small_base: Path, trained: Path, tmp_path: Path) -> None:
    assert not any(difference.holds for difference in compare_ways(small_base, trained, small_base, QUESTIONS))
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    wrong = tmp_path / "adapter"
    wrong.mkdir()
    (wrong / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    (wrong / "adapter_model.safetensors").write_bytes((trained / "adapter" / "adapter_model.safetensors").read_bytes())
    merge(small_base, wrong, tmp_path / "model")
    assert not any(difference.holds for difference in compare_ways(small_base, trained, tmp_path / "model", QUESTIONS))


def test_no_token_is_no_proof() -> None:
    assert not Difference("served", 0, 0.0, 0.0, 0, 0).holds
