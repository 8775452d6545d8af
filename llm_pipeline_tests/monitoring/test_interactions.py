from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.curation.feedback import feedback_pairs
from llm_pipeline.monitoring.feedback import Opinion, read_opinions
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


def test_a_log_of_an_older_gateway_is_read_and_gets_the_defaults(tmp_path: Path) -> None:
    older = {name: value for name, value in interaction("a").items() if name not in NEWER}
    write(tmp_path / "a.jsonl", [older, interaction("b", cost=0.5, cache="hit", variant="B"), interaction("c", cost="much")])
    segments = read_segments(tmp_path)
    assert segments.counts() == {"bad_record": 1}
    assert segments.quarantined[0]["detail"] == "cost: expected int or float, received str"
    first, second = interactions_table(segments.interactions, "2026-01-02").to_pylist()
    assert (first["cost"], first["cache"], first["rating"], first["scrubbed"]) == (0.0, "", None, False)
    assert (second["cost"], second["cache"], second["variant"]) == (0.5, "hit", "B")
    assert set(NEWER) >= set(SCHEMA.names) - set(older) - {"question", "rating", "comment", "correction"}


NEWER = (
    "key_id", "variant", "prompt", "parameters", "guardrail_events", "cache", "cost", "upstreams", "trace_id", "span_id", "parent_span_id",
    "status", "error", "scrubbed",
)  # fmt: skip


def test_feedback_joins_by_id_and_becomes_preferences(tmp_path: Path) -> None:
    write(tmp_path / "log" / "a.jsonl", [interaction(name) for name in "abc"])
    said: list[dict[str, Any]] = [
        {"interaction_id": "a", "rating": 1.0, "comment": "fine", "correction": "", "key": "k", "received_at": "1"},
        {"interaction_id": "a", "rating": 1.0, "comment": "fine", "correction": "", "key": "k", "received_at": "2"},
        {"interaction_id": "b", "rating": -1.0, "comment": "", "correction": "", "key": "k", "received_at": "3"},
        {"interaction_id": "b", "rating": None, "comment": "", "correction": "no", "key": "k", "received_at": "4"},
        {"interaction_id": "b", "rating": 0.0, "comment": "hm", "correction": "", "key": "other", "received_at": "5"},
        {"interaction_id": "gone", "rating": 1.0, "comment": "", "correction": "", "key": "k", "received_at": "6"},
    ]
    write(tmp_path / "said" / "2-1.jsonl", said[3:])
    write(tmp_path / "said" / "1-2.jsonl", said[:3], tail=b'{"interaction_id": "c", "ra')
    opinions = read_opinions(tmp_path / "said")
    assert opinions["a"] == Opinion(1.0, "fine", "")
    assert opinions["b"] == Opinion(-0.5, "hm", "no")
    assert set(opinions) == {"a", "b", "gone"}
    rows = interactions_table(read_segments(tmp_path / "log").interactions, "2026-01-02", opinions).to_pylist()
    assert [(row["rating"], row["correction"]) for row in rows] == [(1.0, ""), (-0.5, "no"), (None, "")]
    pairs, unused = feedback_pairs(rows)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("no", "yes")]
    assert unused == {"no_counterpart": 1}
