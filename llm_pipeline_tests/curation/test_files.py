"""Corpora in plain files: every format gives the same rows, damage is named and loses nothing else, output appears whole."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.files import ROWS, Corpus, ParquetOut, scratch_beside, suite_rows
from llm_pipeline.errors import InputError
from llm_pipeline_tests.curation import samples

ROWS_OF = [
    {"id": 1, "text": "one", "n": 1.5},
    {"id": 2, "text": "zwei ü", "n": None},
    {"id": 30, "text": 'a "quoted", line\nand one more', "n": 2.0},
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS_OF).encode()


def read(path: Path) -> list[dict[str, Any]]:
    corpus = Corpus(path)
    first = [row for table in corpus() for row in table.to_pylist()]
    assert first == [row for table in corpus() for row in table.to_pylist()], "a corpus can be read again"
    return first


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS_OF), path)
    elif name.endswith(".csv"):
        pa_rows = 'id,text,n\n1,one,1.5\n2,zwei ü,\n30,"a ""quoted"", line\nand one more",2.0\n'
        path.write_text(pa_rows, "utf-8")
    else:
        packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
        path.write_bytes(packed(JSONL))
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv"])
def test_formats_agree(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    assert [(row["id"], row["text"]) for row in read(path)] == [(str(row["id"]), row["text"]) for row in ROWS_OF]
    assert Corpus(path).id_type == pa.int64()


def test_a_folder_holds_rows_and_documents(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "page.md").write_text("# Title\n\nSome words in a file.")
    found = {row["id"]: row["text"] for row in read(tmp_path)}
    assert found.keys() == {"1", "2", "30", "notes/page.md"}
    assert "Some words in a file." in found["notes/page.md"]


def test_damaged_rows_are_named_and_the_rest_arrives(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"id": "a", "text": "good"}\n{broken\n{"id": "b"}\n{"id": "c", "text": null}\n[1]\n{"id": "d", "text": "good too"}\n'
    )
    corpus = Corpus(path)
    assert [row["id"] for table in corpus() for row in table.to_pylist()] == ["a", "d"]
    assert [(damage.row, damage.reason.split(":")[0]) for damage in corpus.damaged] == [
        (2, "invalid_json"),
        (3, "missing_value"),
        (4, "missing_value"),
        (5, "not_an_object"),
    ]


def test_null_texts_of_parquet_are_damage(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b", None], "text": ["x", None, "y"]}), tmp_path / "a.parquet")
    corpus = Corpus(tmp_path / "a.parquet")
    assert [row["id"] for table in corpus() for row in table.to_pylist()] == ["a"]
    assert [damage.row for damage in corpus.damaged] == [1, 2]


def test_columns_of_mixed_types_become_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "x", "meta": {"k": 1}}\n{"id": 2, "text": "y", "meta": 3, "late": true}\n')
    assert read(path) == [
        {"id": "a", "text": "x", "meta": '{"k": 1}', "late": None},
        {"id": "2", "text": "y", "meta": "3", "late": True},
    ]


def test_integers_of_any_size_arrive(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "x", "n": 1}\n{"id": 9223372036854775808, "text": "y", "n": -99999999999999999999}\n')
    assert read(path) == [{"id": "1", "text": "x", "n": "1"}, {"id": "9223372036854775808", "text": "y", "n": "-99999999999999999999"}]


def test_a_corpus_without_the_columns_says_what_it_got(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column id; received name, text"):
        next(Corpus(tmp_path / "a.parquet")())
    (tmp_path / "b.jsonl").write_text('{"name": 1}\n')
    with pytest.raises(InputError, match="none of 1 rows can be used"):
        next(Corpus(tmp_path / "b.jsonl")())
    with pytest.raises(InputError, match="no such file"):
        Corpus(tmp_path / "c.jsonl")


def test_a_corpus_without_rows_still_has_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    [table] = Corpus(tmp_path / "a.parquet")()
    assert (table.num_rows, table.column_names) == (0, ["id", "text"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=30))
def test_text_survives_jsonl_and_parquet(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"id": str(i), "text": text.encode(errors="replace").decode()} for i, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    assert read(folder / "a.jsonl") == read(folder / "a.parquet") == rows


def test_tables_are_bounded(tmp_path: Path) -> None:
    rows = pa.table({"id": [str(i) for i in range(2 * ROWS + 1)], "text": ["x"] * (2 * ROWS + 1)})
    pq.write_table(rows, tmp_path / "a.parquet")
    assert [table.num_rows for table in Corpus(tmp_path / "a.parquet")()] == [ROWS, ROWS, 1]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"

    def write_all(*tables: pa.Table) -> None:
        with ParquetOut(path) as out:
            for table in tables:
                out.write(table)

    write_all(pa.table({"id": ["old"]}))
    with pytest.raises(ValueError, match="schema"):
        write_all(pa.table({"id": ["new"]}), pa.table({"other": ["new"]}))
    assert pq.read_table(path)["id"].to_pylist() == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


def test_suites_may_have_questions_or_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "question": "Why?", "answer": "So."}\n')
    (tmp_path / "b.csv").write_text("id,text\n7,A whole passage\n")
    found = suite_rows(tmp_path)
    assert [(row["id"], row["question"], row["answer"]) for rows in found.values() for row in rows] == [
        ("1", "Why?", "So."),
        ("7", "A whole passage", ""),
    ]
    (tmp_path / "c.jsonl").write_text('{"name": 1}\n')
    with pytest.raises(InputError, match="expected a question or a text, received the keys name"):
        suite_rows(tmp_path)


def test_a_broken_parquet_file_says_so(tmp_path: Path) -> None:
    good = samples.parquet()
    for name, data in (("empty", b""), ("cut", good[: len(good) // 2])):
        (tmp_path / f"{name}.parquet").write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}\.parquet: expected a Parquet file"):
            list(Corpus(tmp_path / f"{name}.parquet")())


def test_a_row_group_that_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": range(6), "text": list("abcdef")}), path, row_group_size=2, compression="none", use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    corpus = Corpus(path)
    assert [text for table in corpus() for text in table["text"].to_pylist()] == ["a", "b", "e", "f"]
    assert [(damage.row, damage.reason.split(":")[0]) for damage in corpus.damaged] == [(2, "broken_parquet")]


def test_texts_that_are_no_utf_8_are_damage(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3], "text": pa.array([b"one", b"\xff", b"three"], pa.binary())}), tmp_path / "in.parquet")
    corpus = Corpus(tmp_path / "in.parquet")
    assert [text for table in corpus() for text in table["text"].to_pylist()] == ["one", "three"]
    assert [(damage.row, damage.reason) for damage in corpus.damaged] == [(1, "undecodable: text is not UTF-8")]


def test_no_number_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": NaN}\n{"id": 2, "text": "two"}\n')
    corpus = Corpus(tmp_path / "in.jsonl")
    assert [table["text"].to_pylist() for table in corpus()] == [["two"]]
    assert [damage.reason.split(":")[0] for damage in corpus.damaged] == ["missing_value"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    kept, left = tmp_path / f".out.parquet.{os.getpid()}", tmp_path / f".out.parquet.{ended.pid}"
    work = tmp_path / f".out.parquet.work.{ended.pid}"
    kept.touch()
    left.touch()
    work.mkdir()
    with scratch_beside(tmp_path / "out.parquet") as scratch:
        assert scratch.is_dir()
        assert [path.exists() for path in (kept, left, work)] == [True, False, False]
    assert not scratch.exists()
