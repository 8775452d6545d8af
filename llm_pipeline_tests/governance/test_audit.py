from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.errors import ContractError
from llm_pipeline.governance.audit import GENESIS, AuditLog, record_decisions
from llm_pipeline.store import Home

AT = datetime(2026, 1, 1, tzinfo=UTC)


def filled(path: Path, n: int = 4) -> AuditLog:
    log = AuditLog(path / "log.jsonl")
    for i in range(n):
        log.append("release", f"r{i}", {"i": i}, at=AT)
    return log


def test_every_line_holds_the_hash_of_the_one_before(tmp_path: Path) -> None:
    log = filled(tmp_path)
    entries = log.entries()
    assert entries[0]["previous"] == GENESIS
    assert [e["previous"] for e in entries[1:]] == [e["hash"] for e in entries[:-1]]
    assert log.head == entries[-1]["hash"]


def _edit(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"i": 1', b'"i": 7'), *lines[2:]]


def _remove(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:]]


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], lines[3]]


def _not_json(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b"{\n", *lines[2:]]


@pytest.mark.parametrize("tamper", [_edit, _remove, _swap, _not_json])
def test_tampering_shows_and_names_the_line(tmp_path: Path, tamper: Any) -> None:
    log = filled(tmp_path)
    log.path.write_bytes(b"".join(tamper(log.path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ContractError, match=r"log\.jsonl:2: the chain breaks"):
        log.entries()


def test_a_torn_last_line_is_cut_off_by_the_next_writer(tmp_path: Path) -> None:
    log = filled(tmp_path, 2)
    with log.path.open("ab") as file:
        file.write(b'{"number": 2, "at"')
    log.append("release", "r2", {})
    assert [entry["subject"] for entry in log.entries()] == ["r0", "r1", "r2"]


def _append_many(path: Path) -> None:
    for i in range(20):
        AuditLog(path).append("x", str(i), {})


@pytest.mark.slow
def test_several_processes_keep_one_chain(tmp_path: Path) -> None:
    import multiprocessing

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(_append_many, tmp_path / "log.jsonl") for _ in range(2)]:
            done.result()
    assert len(AuditLog(tmp_path / "log.jsonl").entries()) == 40


def test_decisions_are_recorded_once(home: Home) -> None:
    def release(folder: Path) -> dict[str, Any]:
        (folder / "release.json").write_text(json.dumps({"model": "m"}))
        return {}

    def rollout(folder: Path) -> dict[str, Any]:
        (folder / "rollout.json").write_text(json.dumps({"weights": {"r": 1.0}}))
        return {}

    home.artifacts.build("release", {"n": 1}, release)
    home.artifacts.build("deployed_endpoint", {"n": 1}, rollout)
    assert record_decisions(home)[0] == 2
    added, entries = record_decisions(home)
    assert added == 0
    assert [(entry["event"], entry["detail"]) for entry in entries] == [
        ("release", {"model": "m"}),
        ("deployed_endpoint", {"weights": {"r": 1.0}}),
    ]
