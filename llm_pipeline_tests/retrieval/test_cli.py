"""`llm-pipeline index` on plain files: what is built, what is found, and what is said about wrong files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.errors import InputError, MissingError
from llm_pipeline.retrieval.generations import collect_garbage, generations, released, roll_back
from llm_pipeline.store import Artifacts, Home, read_jsonl, write_jsonl

CORPUS = [
    {"id": 7, "text": "The river Zorn rises in the hills of Averno.", "labels": []},
    {"id": 8, "text": "A ferry crosses the Zorn at noon.", "labels": ["crew"]},
    {
        "id": 9,
        "text": "\n\n".join(f"Chapter {i} tells of the {word} harvest. " * 6 for i, word in enumerate(["barley", "olive", "plum"] * 4)),
    },
]


def run(*arguments: Any) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["index", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.strip().splitlines()[-1]))


def found(path: Path) -> dict[Any, list[Any]]:
    rows: dict[Any, list[Any]] = {}
    for row in pq.read_table(path).to_pylist():
        rows.setdefault(row["query_id"], []).append(row["id"])
        assert row["rank"] == len(rows[row["query_id"]])
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cli")
    write_jsonl(place / "corpus.jsonl", CORPUS)
    write_jsonl(place / "questions.jsonl", [{"query_id": "a", "question": "Where does the Zorn rise?", "relevant": ["7"]}])
    facts = run("build", place / "corpus.jsonl", "--index", place / "index", "--max-tokens", 40, "--threads", 1)
    assert facts["documents"] == 3
    assert facts["chunks"] > 5
    return place


def test_rows_keep_their_ids_and_count_once(folder: Path) -> None:
    write_jsonl(
        folder / "q.jsonl", [{"id": 1, "text": "the plum harvest"}, {"id": "b", "text": "?!"}, {"id": "c", "text": "Where rises the Zorn"}]
    )
    facts = run("search", folder / "q.jsonl", "--index", folder / "index", "--out", folder / "o.parquet", "--k", 2)
    table = pq.read_table(folder / "o.parquet")
    assert table.schema.names == ["query_id", "rank", "id", "score"]
    assert (table.schema.field("query_id").type, table.schema.field("id").type) == (pa.string(), pa.int64())
    assert facts["results"] == table.num_rows == 4
    assert found(folder / "o.parquet") == {"1": [9, 7], "c": [7, 9]}


def test_ids_that_are_numbers_stay_numbers(folder: Path) -> None:
    write_jsonl(folder / "n.jsonl", [{"id": 1, "text": "the plum harvest", "relevant": 9}, {"id": 2, "text": "the ferry"}])
    facts = run("search", folder / "n.jsonl", "--index", folder / "index", "--out", folder / "n.parquet", "--k", 1)
    assert found(folder / "n.parquet") == {1: [9], 2: [7]}
    assert (facts["n"], facts["recall@1"]) == (1, 1.0)


@pytest.mark.parametrize("options", [["--mode", "vector"], ["--mode", "text"], ["--no-rerank"], ["--rerank"], ["--label", "crew"]])
def test_modes_and_labels(folder: Path, options: list[str]) -> None:
    facts = run("search", folder / "questions.jsonl", "--index", folder / "index", "--out", folder / "m.parquet", *options)
    assert facts["recall@1"] == facts["mrr"] == 1.0
    assert (8 in found(folder / "m.parquet")["a"]) == ("--label" in options)


def test_weights_can_be_learnt_and_used(folder: Path) -> None:
    facts = run("train", folder / "questions.jsonl", "--index", folder / "index", "--out", folder / "w.yaml")
    assert facts["used"] == 1
    options = ["--reranker", folder / "w.yaml", "--out", folder / "w.parquet"]
    assert run("search", folder / "questions.jsonl", "--index", folder / "index", *options)["recall@1"] == 1.0


@pytest.mark.parametrize("row", [{"id": "a"}, {"text": "who?"}, {"query_id": "a", "text": 3}, ["a"]])
def test_a_wrong_question_names_its_line(folder: Path, row: Any) -> None:
    (folder / "bad.jsonl").write_text(json.dumps({"id": "x", "text": "fine"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"bad\.jsonl:2: received .*, expected query_id"):
        run("search", folder / "bad.jsonl", "--index", folder / "index", "--out", folder / "x.parquet")
    assert not (folder / "x.parquet").exists()


def test_other_wrong_use(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'hybrid'"):
        run("search", folder / "questions.jsonl", "--index", folder / "index", "--out", tmp_path / "x", "--mode", "hybird")
    with pytest.raises(MissingError, match="no live vector_index"):
        run("search", folder / "questions.jsonl", "--index", tmp_path, "--out", tmp_path / "x")
    write_jsonl(tmp_path / "twice.jsonl", [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}])
    with pytest.raises(InputError, match="the id 'a' stands twice"):
        run("build", tmp_path / "twice.jsonl", "--index", tmp_path)
    pq.write_table(pa.table({"id": ["a"], "txt": ["b"]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="no column text; received id, txt"):
        run("build", tmp_path / "c.parquet", "--index", tmp_path)


def test_generations_come_go_and_come_back(tmp_path: Path) -> None:
    """Five corpora one after another: the third is released, the first made live by hand."""
    home, rows, ids = Home(tmp_path / "home"), [], []
    for i in range(5):
        rows.append({"id": f"r{i}", "text": f"Statement number {i} about the river."})
        write_jsonl(tmp_path / "c.jsonl", rows)
        facts = run("build", tmp_path / "c.jsonl", "--home", home.root)
        assert facts["embedded"] == 1
        os.utime(home.indexes / "vector_index" / facts["generation"] / "manifest.json", (i, i))
        ids.append(facts["generation"])
    home.artifacts.build("release", {"index": ids[2]}, lambda folder: {})
    assert [(g.id, g.live, g.chunks) for g in generations(home.indexes)] == [(ids[i], i == 4, i + 1) for i in (4, 3, 2, 1, 0)]
    assert run("rollback", "--home", home.root) == {"live": ids[3]}
    assert roll_back(home.indexes, ids[0]).id == ids[0]
    with pytest.raises(InputError, match="no generation is older"):
        roll_back(home.indexes)
    with pytest.raises(MissingError, match="no vector_index 'nope'"):
        roll_back(home.indexes, "nope")
    (home.indexes / "vector_index" / ".0123456789abcdef.killed").mkdir()
    collected = run("gc", "--keep", 1, "--home", home.root)
    assert (collected["removed"], collected["unfinished"]) == ([ids[3], ids[1]], 1)
    assert not list((home.indexes / "vector_index").glob(".*.*/"))
    assert [(g.id, g.released) for g in generations(home.indexes, released(home))] == [(ids[4], False), (ids[2], True), (ids[0], False)]
    assert Artifacts(home.indexes).named("vector_index", "live").id == ids[0]
    assert collect_garbage(home.indexes, {ids[2]}, keep=3) == []
    with pytest.raises(InputError, match="expected at least 1"):
        collect_garbage(home.indexes, keep=0)
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "statement"}])
    run("search", tmp_path / "q.jsonl", "--home", home.root, "--generation", ids[2], "--out", tmp_path / "o.parquet")
    assert sorted(found(tmp_path / "o.parquet")["q"]) == ["r0", "r1", "r2"]
    assert len(read_jsonl(tmp_path / "c.jsonl")) == 5
