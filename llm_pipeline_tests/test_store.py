"""What is published is for those that the umask says, what is secret for its user alone; a failed write leaves nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_pipeline.store import Artifacts, write_atomically


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield int(request.param)
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_follow_the_umask_and_secrets_do_not(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "summary.json", "{}")
    write_atomically(tmp_path / "key.json", "{}", private=True)
    assert (mode(tmp_path / "summary.json"), mode(tmp_path / "key.json")) == (0o666 & ~umask, 0o600)


def test_a_file_that_was_open_to_all_becomes_private(tmp_path: Path) -> None:
    write_atomically(tmp_path / "endpoint.json", "old")
    write_atomically(tmp_path / "endpoint.json", "new", private=True)
    assert (mode(tmp_path / "endpoint.json"), (tmp_path / "endpoint.json").read_text()) == (0o600, "new")


def test_artefacts_follow_the_umask(tmp_path: Path, umask: int) -> None:
    def make(folder: Path) -> dict[str, str]:
        write_atomically(folder / "card.md", "words")
        return {}

    made = Artifacts(tmp_path).build("card", {"n": 1}, make)
    assert mode(made.path) == 0o777 & ~umask
    assert mode(made.path / "card.md") == mode(made.path / "manifest.json") == 0o666 & ~umask


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "a", 5)  # type: ignore[arg-type]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
