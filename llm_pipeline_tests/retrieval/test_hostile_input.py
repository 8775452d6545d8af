"""`llm-pipeline index` on files that are wrong or damaged: what is said, what goes on, and that nothing is lost without a word."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.errors import ContractError, InputError, MissingError
from llm_pipeline.retrieval.embedding import Embedder
from llm_pipeline.retrieval.embedding_cache import EmbeddingCache
from llm_pipeline.store import write_jsonl
from llm_pipeline_tests.retrieval.test_cli import found, run

ROWS = [{"id": "a", "text": "The river Zorn rises in Averno."}, {"id": "b", "text": "Bread costs two coins."}]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    write_jsonl(place / "c.jsonl", ROWS)
    run("build", place / "c.jsonl", "--index", place / "index")
    return place / "index"


def ask(index: Path, questions: Path, out: Path, *options: Any) -> dict[str, Any]:
    return run("search", questions, "--index", index, "--out", out, *options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "text": " "}, {"id": "b", "text": ""}], "none of 2 rows has text"),
        ([{"id": "a", "text": "words", "labels": "[x"}], "row 'a': labels: received '\\[x', expected names"),
        ([{"passage_id": "a", "passage": "words"}], "no id, text among passage, passage_id"),
    ],
)
def test_a_corpus_that_cannot_be_used_says_why(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    write_jsonl(tmp_path / "c.jsonl", rows)
    with pytest.raises(InputError, match=message):
        run("build", tmp_path / "c.jsonl", "--index", tmp_path / "index")


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.parquet").write_text("not at all")
    with pytest.raises(InputError, match=r"c\.parquet: expected a Parquet file"):
        run("build", tmp_path / "c.parquet", "--index", tmp_path / "index")


def test_rows_without_text_are_counted_and_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "c.jsonl", [*ROWS, {"id": "c", "text": "\n"}, {"id": "d", "text": None}])
    result = CliRunner().invoke(app, ["index", "build", str(tmp_path / "c.jsonl"), "--index", str(tmp_path / "i"), "--json"])
    assert (json.loads(result.stdout)["damaged"], json.loads(result.stdout)["documents"]) == (2, 2)
    assert "empty_text: c" in result.stderr


def test_ids_of_any_whole_number_type_stay_numbers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([1, 2], pa.int32()), "text": ["one fish", "two fish"]}), tmp_path / "c.parquet")
    run("build", tmp_path / "c.parquet", "--index", tmp_path / "i")
    write_jsonl(tmp_path / "q.jsonl", [{"id": 2**70, "text": "fish"}])
    ask(tmp_path / "i", tmp_path / "q.jsonl", tmp_path / "o.parquet")
    assert {str(2**70): [1, 2]} == {name: sorted(ids) for name, ids in found(tmp_path / "o.parquet").items()}


def test_questions_come_as_json_lines_gzipped_or_as_parquet(index: Path, tmp_path: Path) -> None:
    line = json.dumps({"_id": "q", "query": "Where does the Zorn rise?"})
    (tmp_path / "a.jsonl").write_text(f"\n{line}\n\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(line)
    pq.write_table(pa.table({"query_id": ["q"], "text": ["Where does the Zorn rise?"]}), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        ask(index, tmp_path / name, tmp_path / "o.parquet", "--k", 100)
        assert found(tmp_path / "o.parquet") == {"q": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", b'{"id": 1, "text": "x"}\n{"id": 1, "text": "y"}', "the id 1 stands twice"),
        ("q.jsonl", b'{"id": 1, "text": "x"}\n{"id": ', r"q\.jsonl:2: expected one JSON object"),
        ("q.jsonl", b"\x8a\xff", "received a file that is neither"),
        ("q.jsonl.gz", b"no gzip", "received a file that is neither"),
        ("q.parquet", b"no parquet", "received a file that is neither"),
    ],
)
def test_questions_that_cannot_be_read(index: Path, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        ask(index, tmp_path / name, tmp_path / "o.parquet")
    assert not (tmp_path / "o.parquet").exists()


def test_only_the_beginning_of_a_very_long_question_is_embedded(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest, encode = 0, Embedder.encode

    def measured(self: Embedder, texts: Any, progress: Any = None) -> Any:
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return encode(self, texts, progress)

    monkeypatch.setattr(Embedder, "encode", measured)
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "Zorn \x00" * 100_000}])
    ask(index, tmp_path / "q.jsonl", tmp_path / "o.parquet")
    assert longest == 2_000
    assert found(tmp_path / "o.parquet")["q"][0] == "a"


def test_wrong_models_and_places(index: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "Zorn"}])
    with pytest.raises(MissingError, match="embedder: expected the folder or hub id of one, received"):
        run("build", tmp_path / "q.jsonl", "--index", tmp_path / "i", "--model", tmp_path / "none")
    with pytest.raises(MissingError, match="reranker: expected light"):
        ask(index, tmp_path / "q.jsonl", tmp_path / "o.parquet", "--reranker", tmp_path / "none")
    for wrong in (["--index", tmp_path / "q.jsonl", "--out", tmp_path / "o"], ["--index", index, "--out", tmp_path]):
        assert CliRunner().invoke(app, ["index", "search", str(tmp_path / "q.jsonl"), *map(str, wrong)]).exit_code == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder / "manifest.json"),
        lambda folder: cut(folder / "generation.json"),
        lambda folder: cut(folder / "documents.npy"),
        lambda folder: cut(folder / "passages.arrow"),
        lambda folder: cut(folder / "vectors.npy"),
        lambda folder: [cut(path) for path in (folder / "lancedb").rglob("*.lance") if path.is_file()],
    ],
)
def test_a_damaged_generation_is_said_to_be_and_built_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write_jsonl(tmp_path / "c.jsonl", ROWS)
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "Zorn"}])
    made = run("build", tmp_path / "c.jsonl", "--index", tmp_path / "i")["generation"]
    damage(tmp_path / "i" / "vector_index" / made)
    with pytest.raises(ContractError, match="damaged"):
        ask(tmp_path / "i", tmp_path / "q.jsonl", tmp_path / "o.parquet")
    again = run("build", tmp_path / "c.jsonl", "--index", tmp_path / "i")
    assert (again["generation"], again["reused"], again["embedded"]) == (made, False, 0)
    ask(tmp_path / "i", tmp_path / "q.jsonl", tmp_path / "o.parquet")
    assert found(tmp_path / "o.parquet") == {"q": ["a", "b"]}


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path: Path, embedder: Embedder) -> None:
    cache = EmbeddingCache(tmp_path, embedder)
    first = cache.embed(["one", "two"])
    [file] = cache.root.glob("*.arrow")
    cut(file)
    assert (cache.embed(["one", "two"]) == first).all()
    assert cache.made == 2


BUILD = """
import os, signal, sys
from llm_pipeline.cli import app
from llm_pipeline.retrieval import embedding_cache, index

embedding_cache.BLOCK = 2
if sys.argv[1] == "embedding":
    write = embedding_cache.EmbeddingCache._write
    embedding_cache.EmbeddingCache._write = lambda *a: (write(*a), os.kill(os.getpid(), signal.SIGKILL))
else:
    index.verify = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
app(["index", "build", *sys.argv[2:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["embedding", "verifying"])
def test_a_build_that_is_killed_leaves_the_live_index_and_what_it_embedded(tmp_path: Path, moment: str) -> None:
    rows = [*ROWS, *({"id": str(i), "text": f"Statement number {i}."} for i in range(4))]
    write_jsonl(tmp_path / "c.jsonl", ROWS)
    live = run("build", tmp_path / "c.jsonl", "--index", tmp_path / "i")["generation"]
    write_jsonl(tmp_path / "c.jsonl", rows)
    killed = subprocess.run(
        [sys.executable, "-c", BUILD, moment, tmp_path / "c.jsonl", "--index", tmp_path / "i"], env=os.environ, check=False, timeout=300
    )
    assert killed.returncode == -signal.SIGKILL
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "Zorn"}])
    assert ask(tmp_path / "i", tmp_path / "q.jsonl", tmp_path / "o.parquet")["generation"] == live
    again = run("build", tmp_path / "c.jsonl", "--index", tmp_path / "i")
    assert (again["chunks"], again["embedded"]) == (6, 2 if moment == "embedding" else 0)
    left = {path.name for path in (tmp_path / "i" / "vector_index").iterdir() if path.is_dir()}
    assert left == {live, again["generation"]}
