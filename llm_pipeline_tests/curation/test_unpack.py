"""Packed files come out in blocks of bounded size; bombs and damage end them with a reason, after everything that was good."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.curation import archives, unpack
from llm_pipeline.curation.archives import zip_members
from llm_pipeline.curation.readers import read_file
from llm_pipeline.curation.unpack import BLOCK, Stream, packing, unpacked

TEXT = "".join(f"line {random.Random(i).random()}\n" for i in range(20_000)).encode()
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}


def _all(how: str, blocks: Iterable[bytes]) -> tuple[bytes, str | None]:
    stream = unpacked(Stream(blocks), how)
    data = b"".join(stream)
    return data, stream.problem and stream.problem.split(":")[0]


def _sliced(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


@pytest.mark.parametrize("how", PACKERS)
@given(parts=st.lists(st.binary(max_size=200), min_size=1, max_size=4), size=st.integers(1, 50))
def test_what_was_packed_comes_out_also_of_several_members(how: str, parts: list[bytes], size: int) -> None:
    packed = b"".join(PACKERS[how](part) for part in parts)
    assert _all(how, _sliced(packed, size)) == (b"".join(parts), None)


@pytest.mark.parametrize("how", PACKERS)
def test_everything_before_the_damage_arrives(how: str) -> None:
    packed = PACKERS[how](TEXT)
    data, problem = _all(how, _sliced(packed[: len(packed) * 2 // 3], BLOCK))
    assert problem == f"truncated_{how}"
    assert TEXT.startswith(data)
    assert len(data) > len(TEXT) // 3
    data, problem = _all(how, [PACKERS[how](TEXT) + b"no member at all"])
    assert (data, problem) == (TEXT, f"corrupt_{how}")


@pytest.mark.parametrize("how", PACKERS)
def test_blocks_are_bounded_whatever_the_ratio(how: str) -> None:
    assert max(map(len, unpacked(Stream([PACKERS[how](bytes(40 << 20))]), how))) <= 32 << 20


@pytest.mark.parametrize("how", PACKERS)
def test_a_bomb_is_stopped(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "RATIO_FROM", 1 << 20)
    data, problem = _all(how, [PACKERS[how](bytes(100 << 20))])
    assert problem == "bomb"
    assert len(data) <= 34 << 20


def test_zeros_after_the_last_member_are_padding() -> None:
    assert _all("gz", [gzip.compress(b"text") + bytes(512)]) == (b"text", None)


def test_the_packing_is_told_by_the_last_suffix() -> None:
    assert packing("a.b.jsonl.GZ") == ("a.b.jsonl", "gz")
    assert packing("a.jsonl") == ("a.jsonl", "")
    assert packing("gz") == ("gz", "")


def _archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _reasons(path: Path) -> dict[str, str | None]:
    found = {}
    for record in read_file(path, path.parent):
        found[record.uri.removeprefix(f"{path.name}/")] = record.problem and record.problem.split(":")[0]
    return found


def test_members_are_read_by_their_own_suffixes(tmp_path: Path) -> None:
    members = {
        "a.txt": b"Text.",
        "deep/b.jsonl.gz": gzip.compress(b'{"text": "x"}\n'),
        "../../escaped.txt": b"Text.",
        "/rooted.txt": b"Text.",
        "inner.zip": b"PK",
        ".hidden": b"x",
        "empty.txt": b"",
        "tests.csv": b"question,answer\nWhat?,This.\n",
    }
    assert _reasons(_archive(tmp_path / "a.zip", members)) == {
        "a.txt": None,
        "deep/b.jsonl.gz#1": None,
        "../../escaped.txt": "unsafe_path",
        "/rooted.txt": "unsafe_path",
        "inner.zip": "unsupported_format",
        "empty.txt": "empty_file",
        "tests.csv": "suite_in_archive",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_bomb_in_an_archive_leaves_the_other_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "RATIO_FROM", 1 << 20)
    members = {"a.txt": b"Text.", "bomb.jsonl": bytes(1 << 26), "z.txt": b"Text."}
    found = _reasons(_archive(tmp_path / "a.zip", members))
    assert (found["a.txt"], found["bomb.jsonl"], found["z.txt"]) == (None, "bomb", None)
    monkeypatch.setattr(archives, "MAX_BOMBS", 1)
    assert _reasons(tmp_path / "a.zip")["z.txt"] == "bomb"


def test_damaged_members_are_named(tmp_path: Path) -> None:
    path = _archive(tmp_path / "a.zip", {"a.txt": TEXT, "b.txt": b"Text."}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"line 0.8", b"line 0.9", 1))
    assert _reasons(path) == {"a.txt": "corrupt_zip", "b.txt": None}
    locked = bytearray(_archive(tmp_path / "c.zip", {"a.txt": b"Text."}).read_bytes())
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "c.zip").write_bytes(locked)
    assert _reasons(tmp_path / "c.zip") == {"a.txt": "encrypted"}
    assert _reasons(_archive(tmp_path / "d.zip", {"a.txt": b"Text."}, zipfile.ZIP_LZMA)) == {"a.txt": "unsupported_compression"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_truncated_archive_gives_what_precedes_the_damage(tmp_path: Path, method: int) -> None:
    noise = random.Random(0).randbytes(100_000).hex().encode()
    members = {"a.txt": TEXT, "../b.txt": b"Text.", "deep/c.txt": b"Text.", "long.txt": noise, "never.txt": b"Text."}
    whole = _archive(tmp_path / "whole.zip", members, method).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: whole.index(b"long.txt") + 50_000])
    assert _reasons(tmp_path / "cut.zip") == {
        "a.txt": None,
        "../b.txt": "unsafe_path",
        "deep/c.txt": None,
        "long.txt": "corrupt_zip",
        "cut.zip": "broken_zip",
    }
    (tmp_path / "no.zip").write_bytes(b"not an archive")
    assert _reasons(tmp_path / "no.zip") == {"no.zip": "broken_zip"}


def test_what_nobody_reads_of_a_truncated_archive_is_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "RATIO_FROM", 1 << 20)
    whole = _archive(tmp_path / "a.zip", {"a.txt": b"Text.", "../bomb.jsonl": bytes(1 << 26), "z.txt": b"Text."}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-200])
    assert _reasons(tmp_path / "cut.zip") == {"a.txt": None, "../bomb.jsonl": "unsafe_path", "cut.zip": "broken_zip"}


def test_an_archive_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    [(_, stream)] = zip_members(tmp_path)
    assert list(stream) == []
    assert stream.problem == "unreadable: Is a directory"


def test_a_bomb_in_a_truncated_archive_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "RATIO_FROM", 1 << 20)
    whole = _archive(tmp_path / "a.zip", {"a.txt": b"Text.", "bomb.jsonl": bytes(1 << 26), "z.txt": b"Text."}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-200])
    assert _reasons(tmp_path / "cut.zip") == {"a.txt": None, "bomb.jsonl": "bomb", "cut.zip": "broken_zip"}


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    path = _archive(tmp_path / "a.zip", {f"{i}.txt": b"Text." for i in range(3)})
    assert [stream.problem or bool(list(stream)) or stream.problem for _, stream in zip_members(path)][:2] == [True, True]
    assert _reasons(path)["a.zip"] == "too_many_members"


def test_random_access_to_packed_bytes_is_spooled() -> None:
    with unpacked(Stream([zlib.compress(b"x")]), "").seekable() as file:
        file.seek(0, io.SEEK_END)
        assert file.tell() == len(zlib.compress(b"x"))
