"""Versions of data: a day's earlier states can be listed, compared and brought back, and so can artefacts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.curation.ledger import Entry, ledger_table
from llm_pipeline.curation.versions import diff, log, rollback
from llm_pipeline.errors import InputError, MissingError
from llm_pipeline.store import Home, write_jsonl

DAY, OTHER = "2026-01-01", "2026-01-02"
FIRST = pa.table({"id": ["a", "b"], "text": ["one", "two"]})
SECOND = pa.table({"id": ["b", "c"], "text": ["TWO", "three"]})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    for rows in (FIRST, SECOND):
        home.lake.replace("documents", DAY, rows)
    home.lake.replace("documents", OTHER, FIRST)
    return home


def test_the_log_has_every_state_of_every_day(home: Home) -> None:
    assert [(v.day, v.version, v.rows, v.current) for v in log(home, "documents")] == [
        (DAY, "1", 2, False),
        (DAY, "2", 2, True),
        (OTHER, "1", 2, True),
    ]
    assert [v.version for v in log(home, "documents", OTHER)] == ["1"]


def test_a_difference_names_rows(home: Home) -> None:
    found = diff(home, "documents", "1", "2", DAY)
    assert (found.added, found.removed, found.changed, found.same) == (1, 1, 1, 0)
    assert found.examples == {"added": ["c"], "removed": ["a"], "changed": ["b"]}
    assert diff(home, "documents", "2", "2", DAY).same == 2


def test_a_rollback_is_a_new_version_with_the_old_rows(home: Home) -> None:
    before = log(home, "documents", DAY)
    now = rollback(home, "documents", "1", DAY)
    assert (now.version, now.current, now.content) == ("3", True, before[0].content)
    assert home.lake.read("documents", [DAY])["text"].to_pylist() == ["one", "two"]
    assert home.lake.read("documents", [OTHER])["text"].to_pylist() == ["one", "two"]
    assert rollback(home, "documents", "2", DAY).content == before[1].content


def test_a_tagged_version_is_found_by_its_name(home: Home) -> None:
    home.lake.tag("documents", [DAY, OTHER], "snapshot-x")
    home.lake.replace("documents", DAY, FIRST)
    assert [v.tags for v in log(home, "documents", DAY)] == [(), ("snapshot-x",), ()]
    assert diff(home, "documents", "snapshot-x", "3", DAY).changed == 1
    assert rollback(home, "documents", "snapshot-x", DAY).rows == 2
    assert home.lake.read("documents", [DAY])["id"].to_pylist() == ["b", "c"]
    home.lake.tag("documents", [DAY], "snapshot-x")
    assert log(home, "documents", DAY)[-1].tags == ("snapshot-x",)


def test_artefacts_are_compared_and_pointed_back_at(home: Home) -> None:
    def make(rows: list[dict[str, str]]) -> str:
        return home.artifacts.build(
            "sft_dataset", {"rows": rows}, lambda folder: write_jsonl(folder / "train.jsonl", rows) or {"rows": len(rows)}
        ).id

    old, new = make([{"id": "1", "text": "a"}]), make([{"id": "1", "text": "b"}, {"id": "2", "text": "c"}])
    assert {v.version: v.current for v in log(home, "sft_dataset")} == {old: False, new: True}
    found = diff(home, "sft_dataset", old, new)
    assert (found.added, found.removed, found.changed) == (1, 0, 1)
    assert rollback(home, "sft_dataset", old).version == old
    assert home.artifacts.named("sft_dataset").id == old


def test_what_is_not_there_is_named(home: Home) -> None:
    with pytest.raises(MissingError, match="did you mean 'documents'"):
        log(home, "document")
    with pytest.raises(MissingError, match="no version '9'; there are 1, 2"):
        rollback(home, "documents", "9", DAY)
    with pytest.raises(InputError, match="--day"):
        rollback(home, "documents", "1")


def test_the_command_line_prints_json(home: Home) -> None:
    result = CliRunner().invoke(app, ["data", "log", "documents", "--home", str(home.root), "--json"])
    assert result.exit_code == 0
    assert [entry["version"] for entry in json.loads(result.stdout)] == ["1", "2", "1"]
    result = CliRunner().invoke(app, ["data", "diff", "documents", "1", "2", "--day", DAY, "--home", str(home.root)])
    assert "changed  1" in result.stdout


def test_the_ledger_says_what_became_of_a_document(home: Home) -> None:
    home.lake.replace("documents_ledger", DAY, ledger_table(DAY, [Entry("a", "x://a", 3, "documents", "no_text", "quarantined")]))
    home.lake.replace("filtered_ledger", OTHER, ledger_table(OTHER, [Entry("b", "x://b", 4, "filtered_documents", "toxic", "removed")]))

    def ask(*options: str) -> dict[str, object]:
        result = CliRunner().invoke(app, ["data", "ledger", *options, "--home", str(home.root), "--json"])
        assert result.exit_code == 0
        return dict(json.loads(result.stdout))

    assert ask() == {"records": 2, "no_text (quarantined)": 1, "toxic (removed)": 1}
    assert ask("--day", OTHER) == {"records": 1, "toxic (removed)": 1}
    assert ask("--rule", "no_text")["records"] == 1
    assert ask("--id", "a")["uri"] == "x://a"
