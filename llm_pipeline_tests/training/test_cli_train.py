"""`llm-pipeline train` with the real worker: one file in, a whole model out; stopped, it goes on; `recipes` explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llm_pipeline.cli import app
from llm_pipeline.errors import ConfigError, InputError, TrainingError
from llm_pipeline.store import write_jsonl
from llm_pipeline.training import plain
from llm_pipeline.training.launch import Message
from llm_pipeline.training.recipe import catalogue
from llm_pipeline_tests.training.methods import ADAPTED, PAIRS, ROWS, SMALL, small


def _call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


def _settings(*more: str) -> list[str]:
    return [part for value in [*SMALL, *more] for part in ("--set", value)]


def _complete(out: Path, *trained: str) -> None:
    """All that a run leaves is there, and nothing of its work."""
    names = {path.name for path in out.iterdir()}
    assert {*trained, "curve.png", "training.json"} <= names
    assert not [name for name in names if name.startswith(".")]
    assert ("adapter" in names) == ("adapter" in trained)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    return tmp_path / "pairs.jsonl"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_dpo_on_a_file_under_deepspeed_ends_with_a_model_that_answers(small_base: Path, pairs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    command = ["train", "dpo", "--data", pairs, "--validation", pairs, "--base", small_base, "--out", out, "--json"]
    ran = _call(*command, *_settings(*ADAPTED, "zero_stage=2", "processes=2"))
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert {"validation_loss", "validation_preference_accuracy", "model", "adapter", "loss"} <= told.keys()
    assert "step 3/3  loss " in ran.stderr
    assert "tokens/s" in ran.stderr
    _complete(out, "adapter", "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Fee?"}], add_generation_prompt=True, return_tensors="pt")
    assert AutoModelForCausalLM.from_pretrained(out / "model").generate(**prompt, max_new_tokens=3).shape[1] > prompt["input_ids"].shape[1]
    again = json.loads(_call(*command, *_settings(*ADAPTED, "zero_stage=2", "processes=2")).stdout)
    assert again == told | {"reused": True}
    refused = _call(*command, *_settings(*ADAPTED, "zero_stage=2", "processes=2", "learning_rate=0.5"))
    assert isinstance(refused.exception, ConfigError)
    assert "learning_rate 0.01 -> 0.5" in str(refused.exception)


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_no_half_result_is_left(small_base: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", ROWS["sft"])
    recipe, out = small("full", small_base, "max_steps=150", "save_steps=20", "zero_stage=2"), tmp_path / "out"

    def stop(message: Message) -> None:
        if message["event"] == "checkpoint":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plain.train_file(recipe, tmp_path / "rows.jsonl", None, out, stop)
    assert not (out / "training.json").exists()
    messages: list[Message] = []
    told = plain.train_file(recipe, tmp_path / "rows.jsonl", None, out, messages.append)
    assert 20 <= next(m["step"] for m in messages if m["event"] == "start") < 150
    assert told["steps"] == 150
    _complete(out, "model")
    assert {"recipe", "libraries", "code", "data", "base", "curve"} <= json.loads((out / "training.json").read_text()).keys()


@pytest.mark.parametrize("method", ["sft", "pretrain", "dpo", "kto", "reward", "distill"])
def test_rows_of_another_method_are_refused_before_anything_starts(
    method: Any, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("no training for these rows")

    monkeypatch.setattr(plain, "run", never)
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"question": "a", "answer": "b"}])
    name = next(name for name, recipe in catalogue().items() if recipe.method == method)
    ran = _call("train", name, "--data", path, "--base", small_base, "--out", tmp_path / "out")
    assert ran.exit_code == 1
    assert isinstance(ran.exception, InputError)
    assert f"rows.jsonl:1: no '{'messages' if method in ('sft', 'distill') else 'text' if method == 'pretrain' else 'prompt'}'" in str(
        ran.exception
    )
    assert "received answer, question" in str(ran.exception)
    assert not (tmp_path / "out").exists()


def test_scratch_says_where_it_belongs(pairs: Path, tmp_path: Path) -> None:
    ran = _call("train", "dpo", "--data", pairs, "--base", "scratch", "--out", tmp_path / "out")
    assert isinstance(ran.exception, ConfigError)
    assert "llm-pipeline pretrain" in str(ran.exception)


def test_a_failed_training_leaves_no_result(small_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TrainingError("loss is not a number")

    monkeypatch.setattr(plain, "run", fail)
    with pytest.raises(TrainingError, match="not a number"):
        plain.train_file(small("dpo", small_base), pairs, None, tmp_path / "out")
    assert not (tmp_path / "out" / "training.json").exists()


def test_recipes_are_listed_and_explained() -> None:
    listed = json.loads(_call("recipes", "--json").stdout)
    assert {row["name"] for row in listed} == set(catalogue())
    assert all(row["description"] for row in listed)
    table = _call("recipes").stdout
    assert all(name in table for name in catalogue())
    one = json.loads(_call("recipes", "kto", "--json").stdout)
    assert one["rows"] == ["prompt", "completion", "label"]
    assert isinstance(_call("recipes", "dp").exception, ConfigError)
