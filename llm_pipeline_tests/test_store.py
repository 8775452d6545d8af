"""What is published is for those that the umask says, what is secret for its user alone; a failed write leaves nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
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


BUILDER = """
import sys
from pathlib import Path
from llm_pipeline.store import Artifacts

def make(folder):
    (folder / "half").write_text("x")
    print(folder.name, flush=True)
    sys.stdin.readline()
    return {}

Artifacts(Path(sys.argv[1])).build("index", {"n": sys.argv[2]}, make)
"""


def test_what_killed_builders_left_is_swept_and_no_work_in_progress(tmp_path: Path) -> None:
    """Two builders at work; one is killed: its folder goes, the other's stays and becomes the artefact."""
    at_work = [
        subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("killed", "alive")
    ]
    folders = [str(builder.stdout.readline().strip()) for builder in at_work if builder.stdout]
    (tmp_path / "index" / ".0123456789abcdef.removed").mkdir()
    assert Artifacts(tmp_path).sweep("index") == [".0123456789abcdef.removed"]
    at_work[0].kill()
    at_work[0].communicate()
    assert Artifacts(tmp_path).sweep("index") == [folders[0]]
    assert Artifacts(tmp_path).sweep("index") == []
    at_work[1].communicate("\n")
    assert at_work[1].returncode == 0
    assert Artifacts(tmp_path).named("index").file("half").read_text() == "x"
    assert not [path.name for path in (tmp_path / "index").glob(".*.*/")]
