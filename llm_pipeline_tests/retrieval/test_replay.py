"""Logged questions asked of two generations, against lists of results written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.errors import MissingError
from llm_pipeline.retrieval.metrics import evaluate
from llm_pipeline.retrieval.replay import Change, compare, logged_questions, percentiles
from llm_pipeline.retrieval.search import Passage
from llm_pipeline.store import Home, write_jsonl


class Scripted:
    """Stands for a Searcher: gives the texts that are written down for a question."""

    def __init__(self, name: str, results: Mapping[str, Sequence[str]]) -> None:
        self.path, self.results, self.embedder = Path(name), results, self

    def warm(self, questions: Sequence[str]) -> None:
        assert set(questions) == set(self.results)

    def search(self, question: str, k: int, mode: str = "hybrid", labels: Any = frozenset()) -> list[Passage]:
        return [Passage(f"{self.path}{text}", "d", text, None, "s", "", text, 1.0) for text in self.results[question]][:k]


def scripted(name: str, **results: str) -> Any:
    return Scripted(name, results)


def test_by_hand() -> None:
    old = scripted("old", same="abcd", swapped="abcd", lost="abcd", none="", some="")
    new = scripted("new", same="abcd", swapped="bacd", lost="bxyz", none="", some="a")
    result = compare(old, new, ["same", "swapped", "lost", "none", "some"], k=4)
    assert (result.old, result.new, result.questions, result.k) == ("old", "new", 5, 4)
    assert result.overlap == pytest.approx((1 + 1 + 1 / 7 + 1 + 0) / 5, abs=1e-4)
    assert (result.same_first, result.lost_first) == (0.4, 0.4)
    assert result.mean_shift == pytest.approx((0 + 2 + 1) / 9, abs=1e-4)
    assert result.changed == (Change("some", 0, None), Change("lost", 0.1429, None), Change("swapped", 1.0, 2))
    assert set(result.old_ms) == {"p50", "p95", "p99"}


def test_without_questions(home: Home) -> None:
    with pytest.raises(MissingError, match="no questions"):
        compare(scripted("a"), scripted("b"), [])
    with pytest.raises(MissingError, match="no day of table 'interactions'"):
        logged_questions(home)


def test_the_last_different_questions_of_the_log(home: Home) -> None:
    for day, asked in {"2026-01-01": ["a", "b", "c"], "2026-01-02": ["b", None, "d", "d"]}.items():
        home.lake.replace("interactions", day, pa.table({"question": pa.array(asked, pa.string())}))
    assert logged_questions(home, 3) == ["c", "b", "d"]


def test_percentiles() -> None:
    assert percentiles([i / 1000 for i in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) == {}


def test_answerable_says_whether_a_reader_could_answer() -> None:
    searcher = scripted("x", **{"fee?": ["The fee is $5."], "limit?": ["No limits.", "Other.", "It is 3."]})
    rows = [
        {"question": "fee?", "relevant": ["The fee is $5."], "answer": "$5"},
        {"question": "limit?", "relevant": ["It is 3."], "answer": "3"},
    ]
    result = evaluate(searcher, rows)
    assert result["answerable@2"] == 0.5
    assert (result["recall@1"], result["recall@5"]) == (0.5, 1.0)


def test_on_the_command_line(home: Home, tmp_path: Path) -> None:
    runner, ids = CliRunner(), []
    for texts in (["The fee is $5.", "Cards arrive in a week."], ["Cards arrive in a week.", "The fee is $6."]):
        write_jsonl(tmp_path / "c.jsonl", [{"id": text, "text": text} for text in texts])
        built = runner.invoke(app, ["index", "build", str(tmp_path / "c.jsonl"), "--threads", "1", "--json"], catch_exceptions=False)
        ids.append(json.loads(built.stdout)["generation"])
    home.lake.replace("interactions", "2026-01-01", pa.table({"question": ["What is the fee?", "When do cards arrive?"]}))
    result = json.loads(runner.invoke(app, ["index", "replay", ids[0], "--json"], catch_exceptions=False).stdout)
    assert (result["old"], result["new"], result["same_first"], result["lost_first"]) == (ids[0], ids[1], 0.5, 0.5)
    assert {change["question"]: change["first"] for change in result["changed"]} == {"What is the fee?": None, "When do cards arrive?": 1}
    assert "overlap" in runner.invoke(app, ["index", "replay", ids[0], ids[1]], catch_exceptions=False).stdout
