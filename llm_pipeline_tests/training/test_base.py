from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from llm_pipeline.training.base import train_base
from llm_pipeline_tests.training.conftest import SMALL

PROSE = ["A list is a sequence of values. It can be changed.", "A tuple cannot be changed."]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_base_recipe_runs_small_and_resumes_on_the_same_data(tmp_path: Path) -> None:
    options = {"bf16": False, "disable_tqdm": True, "dataloader_pin_memory": False, "save_steps": 5}
    whole = train_base(SMALL, PROSE, tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole" / "checkpoint-5", tmp_path / "cut" / "checkpoint-5")
    resumed = train_base(SMALL, PROSE, tmp_path / "cut", resume=True, **options)
    assert resumed.state.global_step == SMALL.steps
    for (name, one), (_, other) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
