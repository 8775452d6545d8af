"""Alignment and distillation as assets: on top of the candidate, versioned, and a candidate again when wanted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from llm_pipeline.defs import training
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.errors import ConfigError
from llm_pipeline.store import Artifact, Home, write_jsonl
from llm_pipeline.training.merge import make_candidate
from llm_pipeline.training.sft import rows_for
from llm_pipeline_tests.training.methods import PAIRS, ROWS, finish, prepared, small

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def tuned(home: Home, small_base: Path) -> Home:
    """A home with a candidate and preferences."""

    def model(folder: Path) -> dict[str, Any]:
        (folder / "model").symlink_to(small_base)
        return {}

    def preferences(folder: Path) -> dict[str, Any]:
        for name in ("train", "validation"):
            write_jsonl(folder / f"{name}.jsonl", PAIRS)
            write_jsonl(folder / f"liked_{name}.jsonl", ROWS["kto"])
        return {}

    home.artifacts.build("candidate_model", {"base": "small"}, model)
    home.artifacts.build("preference_dataset", {"rows": 16}, preferences)
    return home


def _run(home: Home, asset: dg.AssetsDefinition, recipe: Path) -> dict[str, Any]:
    name = asset.key.to_user_string()
    config = {"ops": {name: {"config": {"recipe": str(recipe)}}}}
    resources = {"home": HomeResource(root=str(home.root))}
    with dg.instance_for_test() as instance:
        run = dg.materialize([asset], instance=instance, resources=resources, run_config=config)
    return {key: value.value for key, value in run.asset_materializations_for_node(name)[0].metadata.items()}


def _write(folder: Path, name: str, base: Path, *overrides: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(asdict(small(name, base, "zero_stage=2", "max_steps=2", *overrides))))
    return path


@pytest.mark.slow
def test_the_candidate_is_aligned_and_can_be_the_next_candidate(tuned: Home, small_base: Path, tmp_path: Path) -> None:
    told = _run(tuned, training.preference_checkpoint, _write(tmp_path, "dpo", small_base))
    assert told["data_versions"].keys() == {"preference_dataset", "candidate_model", "code"}
    assert told["validation_preference_accuracy"] >= 0
    assert told["reused"] is False
    checkpoint = tuned.artifacts.named("preference_checkpoint")
    assert (checkpoint.path / "adapter" / "chat_template.jinja").exists()
    candidate = make_candidate(tuned, checkpoint)
    assert candidate.inputs.keys() == {"preference_checkpoint", "preference_dataset", "candidate_model"}
    assert (candidate.path / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_student_of_the_candidate_is_a_whole_model_and_made_once(tuned: Home, small_base: Path, tmp_path: Path) -> None:
    recipe = _write(tmp_path, "distill", small_base)
    _run(tuned, training.distilled_checkpoint, recipe)
    student = tuned.artifacts.named("distilled_checkpoint")
    assert {"sft_dataset", "candidate_model", "teacher"} <= student.inputs.keys()
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(student.file("model")).num_hidden_layers == 1
    assert _run(tuned, training.distilled_checkpoint, recipe)["reused"] is True


def _checkpoint(home: Home, name: str, small_base: Path, work: Path) -> Artifact:
    """The artefact of a training in this process."""
    recipe = small(name, small_base, "max_steps=1")
    inputs = {"recipe": name, "base_model": home.artifacts.named("base_model").id}

    def make(folder: Path) -> dict[str, Any]:
        finish(prepared(recipe, small_base, work), recipe, work).rename(folder / "result")
        for path in (folder / "result").iterdir():
            path.rename(folder / path.name)
        return {}

    return home.artifacts.build("sft_checkpoint", inputs, make)


@pytest.mark.parametrize(("name", "reason"), [("reward", "a reward model scores answers"), ("prompt", "virtual tokens cannot be merged")])
def test_what_cannot_answer_alone_is_no_candidate(name: str, reason: str, home: Home, small_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_candidate(home, _checkpoint(home, name, small_base, tmp_path / "work"))
    assert not home.artifacts.has("candidate_model")


def test_kto_reads_single_answers(tuned: Home, small_base: Path) -> None:
    dataset = tuned.artifacts.named("preference_dataset")
    assert rows_for(small("kto", small_base), dataset)[0].name == "liked_train.jsonl"
    assert rows_for(small("dpo", small_base), dataset)[0].name == "train.jsonl"
