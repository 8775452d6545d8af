from __future__ import annotations

from pathlib import Path

from llm_pipeline.training.checkpoints import last_complete, remove_incomplete, seal


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
