from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.monitoring.interactions import SCHEMA, interactions_table, question_of, read_segments
from llm_pipeline.records import Interaction
from llm_pipeline.store import Home, table_hash


def interaction(identity: str, received_at: str = "2026-01-02T10:00:00+00:00", **changes: Any) -> dict[str, Any]:
    item = Interaction(
        id=identity,
        received_at=received_at,
        release="r1",
        key="k",
        messages=[{"role": "user", "content": f"question {identity}"}],
        answer="yes",
        finish_reason="stop",
        passages=[],
        usage={"prompt_tokens": 3, "completion_tokens": 2},
        seconds={"total": 0.1},
        guardrails=[],
    )
    return asdict(item) | changes


def write(path: Path, items: list[dict[str, Any]], tail: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(json.dumps(item).encode() + b"\n" for item in items) + tail)


def test_a_torn_last_line_is_set_aside_and_nothing_else_is_lost(tmp_path: Path) -> None:
    torn = json.dumps(interaction("c")).encode()[:40]
    write(tmp_path / "a.jsonl", [interaction("a"), interaction("b")], tail=torn)
    write(tmp_path / "b.jsonl", [interaction("d")])
    segments = read_segments(tmp_path)
    assert [item.id for item in segments.interactions] == ["a", "b", "d"]
    assert segments.counts() == {"torn": 1}
    assert segments.quarantined[0] == {"file": "a.jsonl", "line": 3, "rule": "torn", "detail": "40 bytes"}


def test_a_torn_line_may_end_inside_a_character(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [interaction("a")], tail='{"id": "ü'.encode()[:-1])
    assert read_segments(tmp_path).counts() == {"torn": 1}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"not json\n", "not_json"),
        (b"[1]\n", "bad_record"),
        (json.dumps(interaction("x", received_at="yesterday")).encode() + b"\n", "bad_record"),
        (json.dumps(interaction("x", received_at="2026-01-02T10:00:00")).encode() + b"\n", "bad_record"),
        (json.dumps(interaction("x", messages="hello")).encode() + b"\n", "bad_record"),
        (json.dumps(interaction("a", answer="another")).encode() + b"\n", "duplicate_id"),
    ],
)
def test_an_unusable_line_is_counted_by_rule(tmp_path: Path, line: bytes, rule: str) -> None:
    write(tmp_path / "a.jsonl", [interaction("a")], tail=line)
    segments = read_segments(tmp_path)
    assert segments.counts() == {rule: 1}
    assert [item.answer for item in segments.interactions] == ["yes"]


def test_the_day_is_the_utc_date_and_rows_are_in_time_order(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        [
            interaction("late", "2026-01-02T23:59:00+00:00"),
            interaction("next", "2026-01-03T00:00:00+00:00"),
            interaction("east", "2026-01-03T01:00:00+02:00"),
            interaction("b", "2026-01-02T00:00:00+00:00"),
            interaction("a", "2026-01-02T00:00:00+00:00"),
        ],
    )
    segments = read_segments(tmp_path)
    assert segments.days() == ["2026-01-02", "2026-01-03"]
    assert interactions_table(segments.interactions, "2026-01-02")["id"].to_pylist() == ["a", "b", "east", "late"]


def test_the_same_log_in_other_segments_gives_the_same_table(tmp_path: Path) -> None:
    items = [interaction(str(i), f"2026-01-02T10:00:{i:02d}+00:00") for i in range(10)]
    write(tmp_path / "one" / "a.jsonl", items)
    write(tmp_path / "two" / "a.jsonl", items[5:])
    write(tmp_path / "two" / "b.jsonl", items[:7])
    one, two = (interactions_table(read_segments(tmp_path / name).interactions, "2026-01-02") for name in ("one", "two"))
    assert table_hash(one) == table_hash(two)


def test_a_day_without_traffic_is_an_empty_table(home: Home) -> None:
    table = interactions_table(read_segments(home.endpoint / "interactions").interactions, "2026-01-02")
    assert table.schema == SCHEMA
    home.lake.replace("interactions", "2026-01-02", table)
    assert home.lake.read("interactions", ["2026-01-02"]).num_rows == 0


def test_the_question_is_what_the_user_said_last() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert question_of(turns) == "c"
    assert question_of([]) == ""
