"""The report of a corpus: shares, effective numbers, vocabulary and clusters by hand, any table, and figures that can be drawn."""

from __future__ import annotations

import io
import json
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.heterogeneity import WINDOW, heterogeneity, plots

ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d"],
        "text": ["one two three", "two three four", "five", ""],
        "source": ["x", "x", "y", "y"],
        "language": ["en", "en", "de", None],
        "cluster_id": ["1", "1", "2", "3"],
    }
)


def test_a_report_by_hand() -> None:
    report = heterogeneity(ROWS)
    assert report["documents"] == 4
    assert report["characters"]["total"] == 13 + 14 + 4
    assert report["words"]["quantiles"] == [0.0, pytest.approx(0.15), 0.75, 2.0, 3.0, 3.0, 3.0]
    assert report["source"] == {"shares": {"x": 0.5, "y": 0.5}, "effective_number": pytest.approx(2.0)}
    assert report["language"]["shares"] == {"en": 0.5, "de": 0.25, "unknown": 0.25}
    assert report["vocabulary"]["different"] == 5
    assert report["vocabulary"]["type_token_ratio"] == pytest.approx(5 / 7)
    assert report["vocabulary"]["growth"][-1] == (7, 5)
    assert report["vocabulary"]["new_words"] == {"x": 1.0, "y": 1.0}
    assert report["clusters"] == {"clusters": 3, "share_of_documents": 0.75, "effective_number": pytest.approx(2.8284271), "largest": 2}


def test_words_that_two_sources_share_are_new_in_neither() -> None:
    table = pa.table({"id": ["a", "b"], "text": ["tea or coffee", "coffee or milk, milk"], "source": ["x", "y"]})
    assert heterogeneity(table)["vocabulary"]["new_words"] == pytest.approx({"x": 1 / 3, "y": 1 / 3})


def test_a_long_corpus_is_no_poorer_for_its_length() -> None:
    r = random.Random(1)
    words = [f"w{i}" for i in range(500)]
    short, long = (pa.table({"id": ["a"], "text": [" ".join(r.choices(words, k=n * WINDOW))]}) for n in (1, 20))
    ratios = [heterogeneity(table)["vocabulary"]["type_token_ratio"] for table in (short, long)]
    assert ratios[0] == pytest.approx(ratios[1], abs=0.05)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["x", "y"])), max_size=6))
def test_any_table_has_a_report_and_figures(rows: list[tuple[str, str]]) -> None:
    table = pa.table(
        {"id": [str(i) for i in range(len(rows))], "text": pa.array([t for t, _ in rows], pa.string()), "source": [s for _, s in rows]}
    )
    report = heterogeneity(table)
    json.dumps(report, allow_nan=False)
    assert report["words"]["total"] == report["vocabulary"]["words"]
    assert {"source", "language", "words", "vocabulary"} <= set(plots(report))


def test_figures_are_drawn() -> None:
    for figure in plots(heterogeneity(ROWS)).values():
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=40)
        assert out.getvalue().startswith(b"\x89PNG")
