"""The assets of compression, and the check that stops a candidate which is not what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.training_compression import candidate_parity, compression_report, quantized_model, smaller_models_keep_quality
from llm_pipeline.store import Home, write_atomically, write_jsonl
from llm_pipeline.training.merge import make_candidate
from llm_pipeline_tests.training.conftest import FACTS

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning", "ignore:.*assistant.*")


@pytest.fixture
def trained(home: Home, small_base: Path) -> Home:
    """A home with a checkpoint, its candidate, a distilled student and a suite."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(small_base, dtype=torch.float32),
        LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn_like(parameter) * 0.3

    def checkpoint(folder: Path) -> dict[str, Any]:
        model.save_pretrained(folder / "adapter")
        return {}

    def student(folder: Path) -> dict[str, Any]:
        shutil.copytree(small_base, folder / "model")
        return {}

    def suite(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / "facts.jsonl", [{"id": k, "question": f"What is the {k}?", "answer": v} for k, v in FACTS.items()])
        write_atomically(folder / "suites.json", json.dumps({"facts": {"rows": 4}}))
        return {}

    inputs = {"base_model": home.artifacts.named("base_model").id, "sft_dataset": home.artifacts.named("sft_dataset").id}
    made = home.artifacts.build("sft_checkpoint", inputs, checkpoint)
    home.artifacts.build("evaluation_suites", {"of": "test"}, suite)
    home.artifacts.build("distilled_checkpoint", {"candidate_model": make_candidate(home, made).id}, student)
    return home


def test_smaller_models_are_made_measured_and_judged(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_pipeline.training.quantize_report.NEW_TOKENS", 4)
    result = dg.materialize(
        [quantized_model, compression_report, smaller_models_keep_quality],  # type: ignore[list-item]
        resources={"home": HomeResource(root=str(trained.root))},
    )
    assert result.success
    report = trained.artifacts.named("compression_report").json("report.json")
    assert [model["name"] for model in report["models"]] == ["candidate", "int8", "int4", "distilled"]
    assert report["draft"]["identical"] == report["draft"]["prompts"] == len(FACTS)
    shown = result.asset_materializations_for_node("compression_report")[0].metadata
    assert {"models", "plot", "draft"} <= shown.keys()
    [check] = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (True, dg.AssetCheckSeverity.WARN)


def test_a_sure_loss_warns(home: Home) -> None:
    def write(folder: Path) -> dict[str, Any]:
        loss = {"mean": -0.2, "low": -0.25, "high": -0.1, "n": 100}
        models = [{"name": "candidate"}, {"name": "int4", "exact_match_change": loss}]
        write_atomically(folder / "report.json", json.dumps({"models": models, "margin": 0.03, "lost": ["int4"]}))
        return {}

    home.artifacts.build("compression_report", {"of": "test"}, write)
    result = smaller_models_keep_quality(HomeResource(root=str(home.root)))
    assert isinstance(result, dg.AssetCheckResult)
    assert not result.passed
    assert result.metadata["lost"].value == "int4"


def test_a_candidate_that_is_not_what_was_trained_is_blocked(trained: Home, small_base: Path) -> None:
    resource = HomeResource(root=str(trained.root))
    assert next(iter(candidate_parity.check_specs)).blocking
    result = candidate_parity(resource)
    assert isinstance(result, dg.AssetCheckResult)
    assert result.passed
    weights = trained.artifacts.named("candidate_model").file("model") / "model.safetensors"
    shutil.copy(small_base / "model.safetensors", weights)
    broken = candidate_parity(resource)
    assert isinstance(broken, dg.AssetCheckResult)
    assert not broken.passed
