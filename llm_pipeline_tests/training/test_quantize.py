"""Quantised folders load like any model, cost little quality, and are measured on the same questions as their original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.compare import Interval
from llm_pipeline.store import Home, file_hash, write_jsonl
from llm_pipeline.training import cli_search
from llm_pipeline.training.quantize import Bits, folder_megabytes, make_quantized, quantize, replace_folder
from llm_pipeline.training.quantize_report import Measured, Question, compare_models, read_questions
from llm_pipeline_tests.training.conftest import FACTS, rows

QUESTIONS = [Question(f"What is the {name}?", value) for name, value in FACTS.items()]


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(5, 60)[None]).logits.float().log_softmax(-1)
    return found


@pytest.mark.parametrize(("bits", "kind", "limit"), [(8, torch.int8, 0.02), (4, torch.uint8, 0.2)])
def test_a_quantised_folder_is_smaller_and_says_nearly_the_same(
    small_base: Path, tmp_path: Path, bits: Bits, kind: torch.dtype, limit: float
) -> None:
    quantize(small_base, tmp_path / "q", bits)
    quantize(small_base, tmp_path / "again", bits)
    assert file_hash(tmp_path / "q" / "model.safetensors") == file_hash(tmp_path / "again" / "model.safetensors")
    assert folder_megabytes(tmp_path / "q") < folder_megabytes(small_base) * 0.75
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "q")
    assert model.model.layers[1].mlp.up_proj.weight.dtype == kind
    before, after = logits(small_base), logits(tmp_path / "q")
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    assert divergence < limit
    assert (tmp_path / "q" / "chat_template.jinja").exists()
    with pytest.raises(InputError, match="quantised already"):
        quantize(tmp_path / "q", tmp_path / "twice", bits)


def test_a_quantised_model_can_be_saved_after_it_was_used(small_base: Path, tmp_path: Path) -> None:
    """What the folder holds is what was quantised, although a forward pass on the CPU packs 4-bit weights anew in memory."""
    quantize(small_base, tmp_path / "q", 4)
    assert torch.equal(logits(tmp_path / "q"), logits(tmp_path / "q"))


def test_nothing_else_is_overwritten_and_a_failure_leaves_the_old_model(small_base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="other things"):
        replace_folder(small_base, tmp_path / "mine", 8)
    replace_folder(small_base, tmp_path / "q", 8)
    before = file_hash(tmp_path / "q")
    with pytest.raises(InputError, match="no config"):
        replace_folder(tmp_path / "mine", tmp_path / "q", 8)
    assert file_hash(tmp_path / "q") == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_models_are_compared_question_by_question(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_pipeline.training.quantize_report.NEW_TOKENS", 4)
    quantize(small_base, tmp_path / "int4", 4)
    reference, small = compare_models({"reference": small_base, "int4": tmp_path / "int4"}, QUESTIONS)
    assert reference.exact_match_change is None
    assert small.exact_match_change is not None
    assert small.nll_change is not None
    assert small.nll_change.n == len(QUESTIONS)
    assert reference.nll is not None
    assert small.nll is not None
    assert small.nll_change.mean == pytest.approx(small.nll - reference.nll, abs=1e-4)
    assert small.memory_megabytes < reference.memory_megabytes
    assert min(small.tokens_per_second, small.tokens_per_second_batch) > 0
    assert json.loads(json.dumps(small.json()))["nll_change"]["n"] == len(QUESTIONS)


def test_a_loss_counts_when_it_is_sure() -> None:
    def measured(low: float, high: float) -> Measured:
        return Measured("int4", 1, 1, 1, 1, 0.5, Interval((low + high) / 2, low, high, 100))

    assert measured(-0.1, -0.04).loses(0.03)
    assert not measured(-0.1, -0.02).loses(0.03)
    assert not Measured("int8", 1, 1, 1, 1).loses(0.03)


def test_questions_are_read_from_suites_and_from_conversations(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "1", "question": "Fee?", "answer": "$5"}, *rows(2)])
    assert read_questions(tmp_path / "a.jsonl") == [
        Question("Fee?", "$5"),
        Question("What is the fee?", "$5"),
        Question("What is the limit?", "$90"),
    ]
    write_jsonl(tmp_path / "b.jsonl", [{"text": "x"}])
    with pytest.raises(InputError, match=r"b\.jsonl:1: expected question"):
        read_questions(tmp_path / "b.jsonl")


def test_an_artefact_with_both_sizes(home: Home, small_base: Path) -> None:
    import shutil

    def copy(folder: Path) -> dict[str, Any]:
        shutil.copytree(small_base, folder / "model")
        return {}

    candidate = home.artifacts.build("candidate_model", {"of": "test"}, copy)
    made = make_quantized(home, candidate)
    assert made.info["int4_megabytes"] < made.info["int8_megabytes"] < made.info["megabytes"]
    assert make_quantized(home, candidate).reused


def test_the_command_line_makes_a_model_and_says_what_changed(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_pipeline.training.quantize_report.NEW_TOKENS", 2)
    app = typer.Typer()
    cli_search.register(app)
    write_jsonl(tmp_path / "questions.jsonl", [{"question": q.question, "answer": q.answer} for q in QUESTIONS])
    command = ["quantize", str(small_base), "--bits", "4", "--out", str(tmp_path / "q"), "--data", str(tmp_path / "questions.jsonl")]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["after"]["disk_megabytes"] < result["before"]["disk_megabytes"]
    assert result["after"]["nll_change"]["n"] == len(QUESTIONS)
    assert (tmp_path / "q" / "config.json").exists()
    assert CliRunner().invoke(app, [*command[:3], "5", *command[4:]]).exit_code == 2
    broken = CliRunner().invoke(app, ["quantize", str(tmp_path), "--out", str(tmp_path / "r")])
    assert isinstance(broken.exception, InputError)
    assert not (tmp_path / "r").exists()
