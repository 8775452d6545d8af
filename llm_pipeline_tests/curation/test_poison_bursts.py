"""A flood of alike documents from one source is held back; growth, other sources and what differs are not."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from llm_pipeline.curation.poison_bursts import find_bursts
from llm_pipeline.curation.poison_policy import BurstPolicy
from llm_pipeline.curation.quality import filter_batches, load_policy

POLICY = BurstPolicy(history=3, factor=4.0, support=20)
WORDS = [f"word{c}{d}" for c in "abcdefghij" for d in "klmnopqrst"]
Row = dict[str, str]


def _different(r: random.Random) -> str:
    return " ".join(r.choices(WORDS, k=30))


def _alike(r: random.Random) -> str:
    return f"Visit our shop, it is the best shop of all shops, thousands of people say so every day; code {r.randrange(10**6)}."


def _rows(day: str, source: str, uri: str, texts: list[str]) -> list[Row]:
    return [{"id": f"{day}-{uri}-{i}", "day": day, "source": source, "uri": uri, "text": text} for i, text in enumerate(texts)]


def _history(r: random.Random, source: str, uri: str, days: int = 4, size: int = 10) -> list[Row]:
    return [row for day in range(1, days + 1) for row in _rows(f"2026-01-0{day}", source, uri, [_different(r) for _ in range(size)])]


def _suspects(rows: list[Row]) -> set[str]:
    random.Random(1).shuffle(rows)
    table = pa.Table.from_pylist(rows)
    bursts = find_bursts(lambda: iter([table.slice(0, 50), table.slice(50)]), POLICY)
    return {rows[at]["id"] for at in bursts.findings(table)}


def test_the_alike_documents_of_a_flood_are_found_and_the_rest_of_the_day_is_not() -> None:
    r = random.Random(0)
    flood = _rows("2026-01-09", "crawl", "https://a.example/1", [_alike(r) for _ in range(60)])
    rest = _rows("2026-01-09", "crawl", "https://a.example/2", [_different(r) for _ in range(5)])
    quiet = _history(r, "crawl", "https://b.example/1", days=9)
    assert _suspects([*_history(r, "crawl", "https://a.example/x"), *flood, *rest, *quiet]) == {row["id"] for row in flood}


@pytest.mark.parametrize(
    ("flood", "history"),
    [
        ([_different(random.Random(i)) for i in range(60)], 4),  # much, but no two alike
        ([_alike(random.Random(i)) for i in range(60)], 2),  # a source without a history
        ([_alike(random.Random(i)) for i in range(19)], 4),  # a few
    ],
)
def test_what_is_no_flood(flood: list[str], history: int) -> None:
    r = random.Random(0)
    assert _suspects([*_history(r, "notes", "notes/1.txt", days=history), *_rows("2026-01-09", "notes", "notes/2.txt", flood)]) == set()


def test_a_source_that_is_always_large_and_alike_is_its_usual_self() -> None:
    r = random.Random(0)
    rows = [row for day in range(1, 7) for row in _rows(f"2026-01-0{day}", "forms", "forms", [_alike(r) for _ in range(40)])]
    assert _suspects(rows) == set()


@pytest.mark.parametrize("columns", [["id", "text"], ["id", "text", "day"], ["id", "text", "source"]])
def test_without_day_and_source_there_is_nothing_to_go_by(columns: list[str]) -> None:
    r = random.Random(0)
    rows = pa.Table.from_pylist([*_history(r, "s", "s"), *_rows("2026-01-09", "s", "s", [_alike(r) for _ in range(60)])]).select(columns)
    assert find_bursts(lambda: iter([rows]), POLICY).findings(rows) == {}


def test_a_flood_is_quarantined() -> None:
    r = random.Random(0)
    rows = [*_history(r, "s", "s"), *_rows("2026-01-09", "s", "s", [_alike(r) for _ in range(60)])]
    table = pa.concat_tables(filter_batches(lambda: iter([pa.Table.from_pylist(rows)]), load_policy()))
    assert table["reason"].to_pylist()[-60:] == ["burst"] * 60
    assert "burst" not in table["reason"].to_pylist()[:-60]
    assert set(table["burst"].to_pylist()[-60:]) == {60.0}
