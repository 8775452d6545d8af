"""Where 4-bit weights have no device, a run ends before it begins; with one, they are 4-bit and stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_pipeline.errors import TrainingError
from llm_pipeline.training import adapters
from llm_pipeline_tests.training.methods import finish, prepared, small

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


def test_a_device_that_cannot_compute_in_four_bits_is_named() -> None:
    with pytest.raises(TrainingError, match=r"adapter qlora: bitsandbytes cannot compute on cuda:99 here .*; train with adapter lora"):
        adapters.check_quantisation("cuda:99")


def test_without_bitsandbytes_qlora_says_so(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="adapter qlora: bitsandbytes is not installed"):
        prepared(small("qlora", small_base), small_base, tmp_path)


def test_a_qlora_step_changes_the_adapter_and_no_quantised_byte(small_base: Path, tmp_path: Path) -> None:
    recipe = small("qlora", small_base, "max_steps=1")
    trainer = prepared(recipe, small_base, tmp_path)
    packed = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.dtype == torch.uint8}
    assert len(packed) == 14, "seven matrices in each of two layers"
    finish(trainer, recipe, tmp_path)
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in packed.items())
    assert any(p.detach().abs().sum() > 0 for name, p in now.items() if "lora_B" in name), "B starts at zero"
