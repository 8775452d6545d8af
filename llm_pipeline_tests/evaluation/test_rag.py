"""What became of each question over passages, on answers whose fate is known, and the asset on such a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from llm_pipeline.defs import evaluation_rag
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.evaluation.rag import OUTCOMES, examples, outcome, results
from llm_pipeline.store import Home, write_atomically, write_jsonl

HELD, OTHER = "The fee is $5 a month.", "The branch opens at nine."


def row(identity: str, answer: str, passage: str = HELD, **changes: Any) -> dict[str, Any]:
    refused = answer.startswith("I do not")
    base = {"suite": "facts", "model": "candidate", "mode": "retrieval", "id": identity, "kind": "fact", "question": "What is the fee?"}
    base |= {"reference": "$5", "answer": answer, "em": answer == "$5", "refused": refused, "passages": [{"text": passage}]}
    return base | {"grounded": None if refused else answer.strip("$") in passage} | changes


ROWS = [
    row("1", "$5"),
    row("2", "$6"),
    row("3", "$6", OTHER),
    row("4", "I do not know that."),
    row("5", "I do not know that.", OTHER, kind="refusal"),
    row("6", "$7", OTHER, kind="refusal"),
    *(row(str(i), "$6", mode="closed") for i in range(1, 5)),
]


@pytest.mark.parametrize(("number", "expected"), list(enumerate(["right", "misread", "not found", "refused", "right", "made up"])))
def test_what_became_of_a_question(number: int, expected: str) -> None:
    assert outcome(ROWS[number]) == expected
    assert expected in OUTCOMES


def test_figures_of_a_suite() -> None:
    [found] = results(ROWS)
    assert found["outcomes"] == {"right": 2, "not found": 1, "misread": 1, "refused": 1, "made up": 1}
    assert (found["n"], found["found"], found["right_when_found"]) == (6, 0.75, 0.3333)
    assert found["right"]["mean"] == pytest.approx(2 / 6)
    assert (found["gain"]["mean"], found["gain"]["n"]) == (0.25, 4), "against memory on the answerable questions"
    assert {e["outcome"] for e in examples(ROWS)} == {"misread", "not found", "refused", "made up"}


def test_the_asset(home: Home) -> None:
    def make(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / "answers.jsonl", [one | {"answer": one["answer"] + "<b>"} if one["id"] == "6" else one for one in ROWS])
        write_atomically(folder / "report.json", json.dumps({"index": "abc"}))
        return {}

    home.artifacts.build("eval_report", {}, make)
    run = dg.materialize([evaluation_rag.rag_report], resources={"home": HomeResource(root=str(home.root))})
    [made] = run.asset_materializations_for_node("rag_report")
    assert made.metadata["right/facts/candidate"].value == pytest.approx(2 / 6)
    page = home.artifacts.named("rag_report").file("report.html").read_text("utf-8")
    assert "<b>" not in page
    assert "$7&lt;b&gt;" in page
