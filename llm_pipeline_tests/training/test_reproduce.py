"""A recorded run can be had again, bit by bit, and MLflow knows what it was made of and what came of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from llm_pipeline.errors import MissingError
from llm_pipeline.store import Home
from llm_pipeline.training import tracking
from llm_pipeline.training.provenance import differences, environment, tokenizer_versions
from llm_pipeline.training.reproduce import compare_curves, compare_weights, find_checkpoint
from llm_pipeline.training.sft import make_checkpoint
from llm_pipeline_tests.training.conftest import QUICK


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_reproduced_and_its_lineage_found(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_pipeline.cli import app

    monkeypatch.setattr(tracking, "SAMPLING_SECONDS", 0.05)
    dataset, base = home.artifacts.named("sft_dataset"), home.artifacts.named("base_model")
    checkpoint = make_checkpoint(home, replace(QUICK, max_steps=6, logging_steps=1, save_steps=100), dataset, base)
    run_id = str(checkpoint.info["mlflow_run_id"])
    made = checkpoint.json("training.json")["provenance"]
    assert made["libraries"] == environment()["libraries"]
    assert len(made["code"]["sources"]) == 16
    assert (made["seed"], made["processes"], made["hardware"]["threads"]) == (0, 1, 1)
    assert made["chat_template"] == tokenizer_versions(base.file("model"))["chat_template"]

    version = tracking.register(home.mlflow_uri, base.file("model"), run_id, {"candidate": "c1"}, alias="champion")
    run = tracking.client(home.mlflow_uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert {"system/cpu_utilization_percentage", "peak_memory_megabytes", "cost", "loss"} <= run.data.metrics.keys()
    assert run.data.params["lora.r"] == "16"
    expected = {
        "runs": [run_id],
        "data": {dataset.id: {"name": "sft_dataset", "role": "training"}},
        "models": [{"name": tracking.REGISTERED_MODEL, "version": int(version), "aliases": ["champion"], "run": run_id}],
    }
    for of in (dataset.id, run_id, version, "champion"):
        assert tracking.lineage(home.mlflow_uri, of) == expected, of
    tags = tracking.client(home.mlflow_uri).get_model_version(tracking.REGISTERED_MODEL, version).tags
    assert tags["tokenizer"] == made["tokenizer"]

    done = CliRunner().invoke(app, ["reproduce", run_id, "--home", str(home.root), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["checkpoint"], report["identical"], report["max_difference"]) == (checkpoint.id, True, 0.0)
    assert report["tensors"] > 10
    assert (report["steps_compared"], report["first_different_step"]) == (6, None)
    assert {name for name in report["differences"] if not name.startswith("code.")} == set()  # the sources may be under work


def test_differences_are_measured_and_named(tmp_path: Path) -> None:
    for name, weight in {"one": torch.ones(3), "other": torch.tensor([1.0, 1.5, 1.0]), "longer": torch.ones(4)}.items():
        (tmp_path / name / "adapter").mkdir(parents=True)
        save_file({"a": weight, "b": torch.zeros(2)}, tmp_path / name / "adapter" / "adapter_model.safetensors")
    found = compare_weights(tmp_path / "one", tmp_path / "other")
    assert found == {"identical": False, "tensors": 2, "different_tensors": 1, "max_difference": 0.5}
    assert compare_weights(tmp_path / "one", tmp_path / "longer")["not_comparable"] == ["a"]
    then, now = ([{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)] for losses in ([3, 2, 1.0], [3, 2.5, 2.0]))
    assert compare_curves(then, now) == {"steps_compared": 3, "first_different_step": 2, "max_loss_difference": 1.0}
    assert differences({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"x": 1, "y": 3}}) == {"a.y": [2, 3], "b": [1, None]}


def test_unknown_run_and_lineage_are_refused(home: Home) -> None:
    with pytest.raises(MissingError, match="no checkpoint 'nonsense'"):
        find_checkpoint(home, "nonsense")


def test_a_changed_chat_template_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("one")
    before = tokenizer_versions(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("two")
    after = tokenizer_versions(tmp_path)
    assert before["tokenizer"] == after["tokenizer"]
    assert before["chat_template"] != after["chat_template"]
