"""Launchers, ZeRO stages and numbers of processes change how a model is trained, not what it becomes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from llm_pipeline.store import write_jsonl
from llm_pipeline.training.launch import curve, train
from llm_pipeline_tests.training.conftest import QUICK, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # PEFT asks by the old name
]
STEPS = 6


def trained(
    base: Path, folder: Path, launcher: Literal["torchrun", "deepspeed"], processes: int, stage: Literal[0, 1, 2, 3]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of every step and the adapter."""
    recipe = replace(QUICK, launcher=launcher, processes=processes, zero_stage=stage, max_steps=STEPS, logging_steps=1, evaluation_rows=0)
    write_jsonl(folder / "train.jsonl", rows())
    result = train(recipe, data=folder / "train.jsonl", base=base, work=folder / "work")
    assert list((folder / "work").glob("checkpoint-*/global_step*")), "DeepSpeed wrote the checkpoint"
    return [point["loss"] for point in curve(folder / "work")], load_file(result / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def alone(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], dict[str, torch.Tensor]]:
    return trained(small_base, tmp_path_factory.mktemp("alone"), "torchrun", 1, 2)


@pytest.mark.parametrize(("launcher", "processes", "stage"), [("deepspeed", 1, 1), ("torchrun", 2, 2), ("torchrun", 2, 3)])
def test_it_becomes_the_same_model(
    small_base: Path,
    tmp_path: Path,
    alone: tuple[list[float], dict[str, torch.Tensor]],
    launcher: Literal["torchrun", "deepspeed"],
    processes: int,
    stage: Literal[0, 1, 2, 3],
) -> None:
    losses, adapter = trained(small_base, tmp_path, launcher, processes, stage)
    assert len(losses) == STEPS
    assert losses == pytest.approx(alone[0], rel=0.02)
    assert adapter.keys() == alone[1].keys()
    for name, weights in adapter.items():
        assert weights.shape == alone[1][name].shape, name
        assert torch.nn.functional.cosine_similarity(weights.flatten().float(), alone[1][name].flatten().float(), dim=0) > 0.97, name
