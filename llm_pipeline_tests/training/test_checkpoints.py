from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.training.checkpoints import disk_full, is_complete, keep, last_complete, processes_of, remove_incomplete, seal, step_of
from llm_pipeline.training.order import Order, permutation


def _checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "global_step" / "states.pt").write_bytes(b"x" * 100)
    if sealed:
        seal(path)
    return path


def test_newest_whole_checkpoint_wins(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        _checkpoint(tmp_path, step)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-100"


def test_half_written_checkpoints_are_never_used(tmp_path: Path) -> None:
    whole = _checkpoint(tmp_path, 5)
    _checkpoint(tmp_path, 10, sealed=False)
    (_checkpoint(tmp_path, 15) / "global_step" / "states.pt").write_bytes(b"x" * 50)
    (_checkpoint(tmp_path, 20) / "global_step" / "states.pt").unlink()
    assert last_complete(tmp_path) == whole
    assert remove_incomplete(tmp_path) == ["checkpoint-10", "checkpoint-15", "checkpoint-20"]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-5"]


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert last_complete(tmp_path) is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        _checkpoint(tmp_path, step)
    _checkpoint(tmp_path, 25, sealed=False)
    keep(tmp_path, 2, best="checkpoint-5")
    assert {step_of(path) for path in tmp_path.glob("checkpoint-*")} == {5, 15, 20, 25}


def test_the_number_of_processes_stands_in_the_manifest(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path, 5, sealed=False)
    seal(path, processes=4)
    assert processes_of(path) == 4
    shutil.move(path, tmp_path / "elsewhere-5")
    assert is_complete(tmp_path / "elsewhere-5")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")],
)
def test_a_full_disk_is_recognised_through_other_errors(tmp_path: Path, error: Exception) -> None:
    _checkpoint(tmp_path, 5)
    outer = ValueError("the save failed")
    outer.__cause__ = error
    assert "checkpoint-5 is whole" in str(disk_full(outer, tmp_path))
    assert disk_full(ValueError("a bad row"), tmp_path) is None


@given(rows=st.integers(1, 60), batch=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 9))
def test_every_epoch_has_every_row_in_whole_steps(rows: int, batch: int, seed: int) -> None:
    order = Order(rows, batch, seed)
    first, second = (permutation(rows, batch, seed, epoch) for epoch in (0, 1))
    assert set(first) == set(second) == set(range(rows))
    assert len(first) == len(order)
    assert len(first) % batch == 0
    assert len(first) - rows < batch
    assert [row for step in range(2 * order.steps) for row in order.rows_of(step)] == first + second
