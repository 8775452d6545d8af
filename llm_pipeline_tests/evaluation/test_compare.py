"""`llm-pipeline compare`: differences, slices and flips are those of the rows, and the page shows both answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.gate_policy import GatePolicy
from llm_pipeline.evaluation.versus import compare_rows

Rows = list[dict[str, Any]]


def rows(model: str) -> Rows:
    """200 questions: the second model gains 40 on the wiki and loses 10 at home; its answers take longer."""
    found: Rows = []
    for i in range(200):
        source = "wiki" if i % 2 else "home"
        right = (i % 4 < 2) if model == "first" else (i % 4 < 2 or (source == "wiki" and i < 160)) and not (source == "home" and i < 40)
        text = {"question": f"What is {i}?", "reference": str(i), "answer": f"<i>{model} {i}</i>", "slices": {"source": source}}
        common = {"suite": "facts", "id": f"q{i}", **text}
        found += [common | {"metric": "em", "score": float(right)}]
        found += [common | {"metric": "seconds", "score": i / 100 + (model == "second") * 0.5}]
    return found


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders as `llm-pipeline evaluate` leaves them."""
    report = {"suites": [{"suite": "facts", "figures": [{"metric": "seconds", "lower_is_better": True}, {"metric": "em"}]}]}
    for model in ("first", "second"):
        folder = tmp_path / model
        folder.mkdir()
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(model)), "utf-8")
        (folder / "report.json").write_text(json.dumps(report), "utf-8")
    return tmp_path / "first", tmp_path / "second"


def test_slices_and_flips_are_those_of_the_rows() -> None:
    result = compare_rows(rows("first"), rows("second"), GatePolicy("em", lower_is_better=("seconds",)))
    slices = {(s["metric"], s["slice"], s["value"]): s for s in result["slices"]}
    assert slices["facts/em", "source", "wiki"]["difference"] == pytest.approx(0.4)
    assert slices["facts/em", "source", "home"]["difference"] == pytest.approx(-0.1)
    for s in slices.values():
        assert s["p_value"] <= s["adjusted_p"] <= 1
        assert s["interval"][0] <= s["difference"] <= s["interval"][1]
    flips = result["flips"]["facts/em"]
    assert (flips["won"], flips["lost"], flips["same"]) == (40, 10, 150)
    first_lost = flips["examples_lost"][0]
    assert (first_lost["scores"], first_lost["answers"]) == ([1.0, 0.0], ["<i>first 0</i>", "<i>second 0</i>"])
    assert all(example["scores"] == [0.0, 1.0] for example in flips["examples_won"])
    assert len(flips["examples_won"]) == len(flips["examples_lost"]) == 8
    slower = result["flips"]["facts/seconds"]
    assert (slower["won"], slower["lost"]) == (0, 200), "more seconds are a loss"


def test_folders_make_a_page_and_data_with_the_gates_verdict(folders: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["compare", *map(str, folders), "--out", str(out), "--primary", "em", "--json"])
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result == json.loads((out / "comparison.json").read_text("utf-8"))
    assert result["decision"]["verdict"] == "reject"
    assert result["decision"]["reasons"][0].startswith("facts/seconds (guard)")
    page = (out / "comparison.html").read_text("utf-8")
    assert not re.findall(r"(?:src|href)=|https?://|<script|<i>", page)
    assert "Verdict: reject" in page
    assert "&lt;i&gt;first 0&lt;/i&gt;" in page
    assert "&lt;i&gt;second 0&lt;/i&gt;" in page
    assert "40 won, 10 lost, 150 the same" in page
    assert "<svg" in page


def test_a_metric_of_one_side_only_is_left_out_and_named() -> None:
    less = [row for row in rows("second") if row["metric"] == "em"]
    policy = GatePolicy("em", {"seconds": 0.1}, lower_is_better=("facts/seconds",))
    result = compare_rows(rows("first"), less, policy, names=("old", "new"))
    assert set(result["flips"]) == set(result["decision"]["metrics"]) == {"facts/em"}
    assert "facts/seconds: only old has scores of it, not compared" in result["decision"]["notes"]
    with pytest.raises(InputError, match="no scores on the champion's side"):
        compare_rows(less, [row | {"metric": "f1"} for row in less])


def test_without_the_slower_metric_it_is_promoted(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["compare", *map(str, folders), "--out", str(tmp_path / "out"), "--report-only", "seconds"])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith("promote")
    assert str(tmp_path / "out" / "comparison.html") in ran.stdout


def test_rows_without_texts_are_compared_too(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps({"id": i, "metric": "m", "score": i % 2}) + "\n" for i in range(40)), "utf-8")
    ran = CliRunner().invoke(app, ["compare", *map(str, files), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith("insufficient")
    assert "None" not in (tmp_path / "out" / "comparison.html").read_text("utf-8")
