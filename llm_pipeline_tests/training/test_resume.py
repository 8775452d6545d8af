"""A training that is cut off goes on as if it had not been: with other processes, after a full disk, back at its best weights."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm_pipeline.errors import TrainingError
from llm_pipeline.store import write_jsonl
from llm_pipeline.training.checkpoints import is_complete, step_of
from llm_pipeline.training.launch import Message, curve, train
from llm_pipeline_tests.training.conftest import QUICK, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # PEFT asks by the old name
]
STEPS = 9
SHORT = replace(
    QUICK,
    precision="fp32",
    max_length=48,
    batch_size=4,
    max_steps=STEPS,
    save_steps=3,
    logging_steps=1,
    keep_checkpoints=3,
    evaluation_rows=0,
)
"""In fp32, so that float noise is small."""


def weights(result: Path) -> dict[str, torch.Tensor]:
    return load_file(result / "adapter" / "adapter_model.safetensors")


def assert_same(work: Path, other: Path, atol: float) -> None:
    mine, theirs = curve(work), curve(other)
    assert [p["step"] for p in mine] == [p["step"] for p in theirs]
    assert [p["loss"] for p in mine] == pytest.approx([p["loss"] for p in theirs], rel=1e-4)
    ours = weights(other / "result")
    for name, tensor in weights(work / "result").items():
        torch.testing.assert_close(tensor, ours[name], atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def cut(work: Path, to: Path, step: int) -> Path:
    """A copy of the run as a kill after this step's checkpoint leaves it."""
    shutil.copytree(work, to)
    shutil.rmtree(to / "result")
    for path in to.glob("checkpoint-*"):
        if step_of(path) > step:
            shutil.rmtree(path)
    lines = (to / "progress.jsonl").read_text().splitlines()
    (to / "progress.jsonl").write_text("".join(f"{line}\n" for line in lines if json.loads(line).get("step", 0) <= step))
    return to


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that leave the last step of an epoch partly empty."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    write_jsonl(path, rows(40))
    return path


@pytest.fixture(scope="module")
def whole(small_base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("whole") / "work"
    train(SHORT, data=data, base=small_base, work=work)
    return work


def test_it_goes_on_with_two_processes_and_back_with_one(small_base: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    """DeepSpeed shards the optimiser's state anew; the rows of every step stay the same, also over the end of an epoch."""
    count = next(m for m in map(json.loads, (whole / "progress.jsonl").read_text().splitlines()) if m["event"] == "data")["rows"]
    assert count % SHORT.batch_size, "an epoch does not end with a whole step"
    assert 2 * -(-count // SHORT.batch_size) < STEPS, "the run goes into its third epoch"
    messages: list[Message] = []
    two = cut(whole, tmp_path / "two", 3)
    train(replace(SHORT, processes=2), data=data, base=small_base, work=two, on_message=messages.append)
    assert next(m for m in messages if m["event"] == "regrouped") == {"event": "regrouped", "step": 3, "from": 1, "to": 2}
    assert_same(two, whole, atol=1e-4)
    one = cut(two, tmp_path / "one", 6)
    train(replace(SHORT, accumulation=2), data=data, base=small_base, work=one)
    assert_same(one, whole, atol=1e-4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2.2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk: mount needs the right to do so ({mounted.stderr.decode().strip()})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk_keeps_what_was_whole_and_goes_on_when_there_is_room(small_base: Path, data: Path, whole: Path, small_disk: Path) -> None:
    work = small_disk / "work"
    with pytest.raises(TrainingError, match=r"the disk is full: .* free some space: checkpoint-6 is whole") as failure:
        train(SHORT, data=data, base=small_base, work=work)
    assert failure.value.retryable
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert all(map(is_complete, work.glob("checkpoint-*")))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    train(SHORT, data=data, base=small_base, work=work)
    for name, tensor in weights(work / "result").items():
        assert torch.equal(tensor, weights(whole / "result")[name]), name


def test_early_stopping_returns_the_best_weights_and_keeps_them(small_base: Path, data: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "validation.jsonl", _contradicting())
    recipe = replace(
        SHORT, max_steps=40, save_steps=4, evaluation_steps=2, early_stopping=2, keep_checkpoints=1, evaluation_rows=4,
        price_per_device_hour=3600.0,
    )  # fmt: skip
    messages: list[Message] = []
    work = tmp_path / "work"
    result = train(recipe, data=data, base=small_base, work=work, validation=tmp_path / "validation.jsonl", on_message=messages.append)
    losses = {m["step"]: m["validation_loss"] for m in messages if m["event"] == "validation"}
    figures: dict[str, Any] = json.loads((result / "figures.json").read_text())
    best = min(losses, key=lambda step: losses[step])
    assert (figures["best_step"], figures["validation_loss"]) == (best, losses[best])
    assert figures["steps"] == best + 4 < 40
    stored = work / f"checkpoint-{best}" / "adapter_model.safetensors"
    assert (result / "adapter" / "adapter_model.safetensors").read_bytes() == stored.read_bytes()
    assert {step_of(path) for path in work.glob("checkpoint-*")} == {best, figures["steps"]}
    last = curve(work)[-1]
    assert last["cost"] == pytest.approx(last["device_hours"] * 3600)
    assert last["cost"] > 0


def _contradicting() -> list[dict[str, Any]]:
    """Validation rows with other answers than the training's: what it learns makes them less likely."""
    return [row | {"messages": [row["messages"][0], {"role": "assistant", "content": "No idea."}]} for row in rows(4)]


def test_loss_that_is_no_number_stops_with_its_batch_named(small_base: Path, data: Path, tmp_path: Path) -> None:
    poisoned = tmp_path / "base"
    shutil.copytree(small_base, poisoned)
    tensors = load_file(poisoned / "model.safetensors")
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    word = AutoTokenizer.from_pretrained(small_base).encode("zebra", add_special_tokens=False)[0]
    tensors["model.embed_tokens.weight"][word] = float("inf")
    save_file(tensors, poisoned / "model.safetensors", metadata={"format": "pt"})
    odd = {"id": "odd one", "messages": [{"role": "user", "content": "zebra"}, {"role": "assistant", "content": "zebra"}]}
    write_jsonl(tmp_path / "train.jsonl", [*rows(5), odd])
    with pytest.raises(TrainingError, match=r"loss (nan|inf) at step 1 on process 0, in the batch of .*row 6 \(id odd one\)") as failure:
        train(SHORT, data=tmp_path / "train.jsonl", base=poisoned, work=tmp_path / "work")
    assert "first base_model.model.model.embed_tokens.weight" in str(failure.value)
    assert not failure.value.retryable
    assert not list((tmp_path / "work").glob("checkpoint-*"))
