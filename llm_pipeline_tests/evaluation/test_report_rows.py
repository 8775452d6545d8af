"""The report on one model's rows: figures, slices and worst examples are those of the rows, and the page stands alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from scipy import stats

from llm_pipeline.evaluation.compare import score_interval
from llm_pipeline.evaluation.report import render_rows, summarise_rows, worst_rows
from llm_pipeline.evaluation.slices import slices_of


def rows() -> list[dict[str, Any]]:
    def row(i: int, metric: str, score: float | None) -> dict[str, Any]:
        words = "word " * (3 if i % 2 else 30)
        text = {"question": f"{words}{i}?", "reference": f"right {i}", "answer": f"<script>alert({i})</script>"}
        return {"suite": "facts", "id": f"q{i}", "metric": metric, "score": score, **text, "slices": {"source": "kb" if i < 6 else "web"}}

    exact = [row(i, "em", float(i < 6)) for i in range(10)]
    return exact + [row(i, "seconds", i / 2) for i in range(10)] + [row(0, "grounded", None)]


def test_figures_and_slices_are_those_of_the_rows() -> None:
    summary = summarise_rows(rows())
    assert [(f["metric"], f["n"], f["mean"]) for f in summary["figures"]] == [("em", 10, 0.6), ("seconds", 10, 2.25)]
    found = {(s["metric"], s["slice"], s["value"]): (s["n"], s["mean"]) for s in summary["slices"]}
    assert found["em", "source", "kb"] == (6, 1.0)
    assert found["em", "source", "web"] == (4, 0.0)
    assert found["em", "length", "1 to 8 words"] == (5, 0.6)
    assert {name for _, name, _ in found} == {"source", "length"}


def test_shares_have_wilsons_interval() -> None:
    for right, n in ((6, 10), (10, 10), (0, 7)):
        expected = stats.binomtest(right, n).proportion_ci(0.9, method="wilson")
        found = score_interval([1.0] * right + [0.0] * (n - right))
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_worst_examples_know_which_way_is_better() -> None:
    mine = [row for row in rows() if row["metric"] == "seconds"]
    assert [row["id"] for row in worst_rows(mine, lower_is_better=True, limit=2)] == ["q9", "q8"]
    assert [row["id"] for row in worst_rows(mine, limit=2)] == ["q0", "q1"]
    assert worst_rows([row | {"score": 1} for row in mine]) == []


def test_the_page_stands_alone_and_escapes() -> None:
    page = render_rows(rows(), "Facts & <more>", facts={"model": "<b>"}, lower_is_better=["seconds"])
    assert not re.findall(r"(?:src|href)=|https?://|<script", page)
    assert "Facts &amp; &lt;more&gt;" in page
    assert "&lt;script&gt;alert(9)" in page
    assert "0.600" in page
    assert "lower is better" in page
    assert page.count("<svg") == 2, "bars of the shares, spread of the seconds"


def test_rows_without_texts_or_slices_still_make_a_page() -> None:
    bare = [{"suite": "s", "id": str(i), "metric": "m", "score": i % 2} for i in range(4)]
    assert "None" not in re.sub(r"None: no answer", "", render_rows(bare, "bare"))
    assert "<table>" in render_rows([], "nothing")


def test_slices_of_a_row() -> None:
    row = {"question": "How much?", "language": "de", "kind": None, "slices": {"day": 3}}
    assert slices_of(row) == {"language": "de", "day": "3", "length": "1 to 8 words"}
