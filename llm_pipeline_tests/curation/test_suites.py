"""Evaluation suites: the bank's own and a user's files in one form."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_pipeline.curation.sources import Source
from llm_pipeline.curation.suites import build_suites, load_suite_rows
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home

ROW = {"id": "7", "question": "Who?", "answer": "Ann", "passage_id": "p3"}


def files(folder: Path) -> Source:
    return Source("mine", "files", "x", "x", "x", uri=str(folder))


def test_the_banks_suites_and_a_users(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "b.csv").write_text("question,answer\nWhere?,Here\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode()))
    pq.write_table(pa.Table.from_pylist([ROW]), folder / "d.parquet")
    (folder / "facts.jsonl").write_text(json.dumps(ROW) + "\n")
    (folder / "text.jsonl").write_text(json.dumps({"text": "a document"}) + "\n")
    bank = Source("support", "generator", "x", "x", "x", options={"products": 3})
    made = build_suites(Home(tmp_path / "home"), [bank, files(folder)])
    rows = load_suite_rows(made)
    assert sorted(rows) == ["a", "b", "c", "d", "facts", "facts_after", "mine_facts", "shifted", "unanswerable"]
    wanted = {"id": "7", "question": "Who?", "answer": "Ann", "kind": "fact", "relevant": ["p3"]}
    assert rows["a"] == rows["c"] == rows["d"] == rows["mine_facts"] == [wanted]
    assert rows["b"] == [{"id": "b-0", "question": "Where?", "answer": "Here", "kind": "fact", "relevant": []}]
    assert {row["kind"] for row in rows["unanswerable"]} == {"refusal"}
    index = made.json("suites.json")
    assert (index["facts"]["valid_from"], index["facts_after"]["valid_from"], index["a"]["valid_from"]) == (
        "2026-01-01",
        "2026-01-08",
        None,
    )
    assert build_suites(Home(tmp_path / "home"), [bank, files(folder)]).reused


def test_a_suite_is_cut_and_a_bad_row_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({**ROW, "id": i}) + "\n" for i in range(9)))
    made = build_suites(Home(tmp_path / "home"), [files(folder)], limit=4)
    assert [row["id"] for row in load_suite_rows(made)["a"]] == ["0", "1", "2", "3"]
    (folder / "a.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps({"question": "Who?", "answer": ""}) + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl: row 1: expected a question and an answer"):
        build_suites(Home(tmp_path / "home"), [files(folder)])
