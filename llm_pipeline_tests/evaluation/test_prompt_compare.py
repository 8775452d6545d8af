"""Prompts compared, selected and reported on with the shipped model, which reads well in one form only: so a change shows."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from llm_pipeline.curation.support.practice import practice
from llm_pipeline.defs.evaluation_prompts import prompt_report
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.cli_prompts import register as add_verbs
from llm_pipeline.evaluation.generate import Generator
from llm_pipeline.evaluation.prompt_compare import Case, ask, compare, read_cases
from llm_pipeline.evaluation.prompt_page import change_page
from llm_pipeline.evaluation.prompt_report import build_prompt_report
from llm_pipeline.evaluation.prompt_select import Selection, cover, select, split
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import FOLDER, Prompt, PromptFile, find_file, load_prompt
from llm_pipeline.records import Release
from llm_pipeline.serving.traffic.state import Spec, State
from llm_pipeline.store import Home, write_jsonl

app = typer.Typer()
add_verbs(app)
MODEL = DATA / "models" / "tiny_base"
ANSWER = load_prompt(FOLDER / "answer.yaml")
STRANGE = Prompt("Say {question} of this:\n{passages}")
"""Not the form that the model has learned to read."""


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(MODEL, threads=1)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    found = []
    for i in range(44):
        drawn = practice(random.Random(f"prompts/{i}"), 0.15)
        question, answer = drawn.turns[0]
        found.append(Case(str(i), question, answer, drawn.context))
    return found


def test_a_worse_prompt_is_told_from_the_released_one(generator: Generator, cases: list[Case]) -> None:
    good, bad = (ask(generator, prompt, cases[:32], max_new_tokens=8) for prompt in (ANSWER, STRANGE))
    found = compare(good, bad)
    assert found["verdict"] == "worse"
    assert found["metrics"]["em"]["difference"]["high"] < 0
    assert found["metrics"]["em"]["before"] >= 0.8
    assert found["metrics"]["nll"]["difference"]["low"] > 0
    assert found["lost"] - found["won"] == -round(found["metrics"]["em"]["difference"]["mean"] * 32)
    assert [change["flip"] for change in found["changed"]][: found["lost"]] == ["lost"] * found["lost"]
    back = compare(bad, good)
    assert (back["verdict"], back["won"], back["lost"]) == ("better", found["lost"], found["won"])
    same = compare(good, good)
    assert (same["verdict"], same["changed"]) == ("not surely different", [])
    with pytest.raises(InputError, match="same cases"):
        compare(good, bad[1:] + bad[:1])


def test_the_answer_that_the_prompt_reads_is_what_counts(generator: Generator, cases: list[Case]) -> None:
    """The model never says "Answer:", so a prompt that asks for it finds nothing, however good the reply."""
    [row] = ask(generator, replace(ANSWER, reasoning=find_file("answer_reasoning").prompt.reasoning), cases[:1], max_new_tokens=16)
    assert (row["well_formed"], row["answer"], row["em"], row["nll"]) == (False, "", False, None)
    [plain] = ask(generator, ANSWER, cases[:1], max_new_tokens=16)
    assert (plain["well_formed"], plain["em"]) == (True, True)
    assert plain["prompt_tokens"] < row["prompt_tokens"]


def test_a_suite_file_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    rows: list[Any] = [
        {"id": 1, "question": "Q", "answer": "A", "context": "C"},
        {"id": 2, "question": "Q", "answer": "A", "passages": ["P", {"text": "T"}]},
        {"id": 3, "question": "Q", "answer": "A"},
    ]
    write_jsonl(path, rows)
    assert [case.passages for case in read_cases(path)] == [("C",), ("P", "T"), ()]
    for wrong, message in (({"id": 1}, "4: expected the keys"), (rows[0], "4: the id '1' stands twice"), ([], "4: expected the keys")):
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, wrong]), "utf-8")
        with pytest.raises(InputError, match=message):
            read_cases(path)
    path.write_text("", "utf-8")
    with pytest.raises(InputError, match="no rows"):
        read_cases(path)


def test_the_page_is_self_contained_and_escapes(generator: Generator, cases: list[Case]) -> None:
    nasty = [replace(cases[0], question="<script>alert(1)</script>", passages=("<img alt=x>",))]
    rows = [ask(generator, prompt, nasty, max_new_tokens=4) for prompt in (ANSWER, STRANGE)]
    rows[1][0]["answer"] = rows[1][0]["reply"] = "<b>bold</b>"
    names = {side: {"name": "p<q", "id": "0"} for side in ("before", "after")}
    page = change_page({**names, "model": "m", "diff": ["+<i>"], **compare(*rows)})
    assert not re.findall(r"<script|<img|<b>|<i>|(?:src|href)=|https?://", page)
    assert "&lt;b&gt;bold" in page


def test_the_choice_is_judged_on_questions_that_it_has_not_seen(generator: Generator, cases: list[Case]) -> None:
    settings = Selection(shots=(1,), pool=2, first_round=4, max_new_tokens=8)

    def embed(texts: Any) -> Any:
        """Letters of a text: enough to be near or far."""
        found = np.array([[text.lower().count(letter) + 1.0 for letter in "aeiours"] for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    prompts = {"strange": STRANGE, "answer": ANSWER}
    parts = split(cases, settings)
    assert parts == split(cases[::-1], settings)
    best, report = select(generator, prompts, cases, embed, settings)
    assert report["chosen"]["name"].startswith("answer")
    assert report["chosen"]["id"] == best.id
    assert report["held_out"]["verdict"] == "better"
    assert report["held_out"]["n"] == len(parts.test)
    assert {example.question for example in best.examples} <= {case.question for case in parts.train}
    assert not {case.question for case in parts.train} & {case.question for case in (*parts.validation, *parts.test)}
    assert not {case.question for case in parts.validation} & {case.question for case in parts.test}
    assert [len(round_["candidates"]) for round_ in report["rounds"]] == [6, 3, 2]
    assert report["rounds"][-1]["questions"] == len(parts.validation)
    expected = ask(generator, best, parts.test, max_new_tokens=8)
    assert report["chosen"]["test"] == pytest.approx(np.mean([row["em"] for row in expected]), abs=1e-4)
    assert select(generator, prompts, cases[::-1], embed, settings) == (best, report)
    with pytest.raises(InputError, match="at least 4 in each part"):
        split(cases[:5], settings)


def test_examples_cover_the_questions() -> None:
    """Two groups of questions: two examples, one of each; not the two that are near the larger group."""
    similar = np.array([[0.9, 0.8, 0.1]] * 5 + [[0.0, 0.0, 0.7]] * 3)
    assert cover(similar, 2) == [0, 2]
    assert cover(similar, 9) == [0, 2, 1]


def test_the_verbs_compare_and_select(cases: list[Case], tmp_path: Path) -> None:
    suite = tmp_path / "suite.jsonl"
    write_jsonl(suite, [asdict(case) for case in cases[:24]])
    options = ["--model", str(MODEL), "--suite", str(suite), "--max-new-tokens", "8", "--json"]
    run = CliRunner().invoke
    found = run(app, ["prompts", "compare", "answer", "answer_json", *options, "--out", str(tmp_path / "c")], catch_exceptions=False)
    assert json.loads(found.stdout)["verdict"] == "worse"
    assert json.loads((tmp_path / "c" / "report.json").read_text("utf-8"))["after"]["id"] == find_file("answer_json").prompt.id
    assert len((tmp_path / "c" / "before.jsonl").read_text("utf-8").splitlines()) == 24
    chosen = run(app, ["prompts", "select", "answer", *options, "--out", str(tmp_path / "s"), "--shots", "1"], catch_exceptions=False)
    assert load_prompt(tmp_path / "s" / "prompt.yaml").id == json.loads(chosen.stdout)["chosen"]["id"]
    assert "How the prompt was selected" in (tmp_path / "s" / "report.html").read_text("utf-8")


@pytest.fixture
def released(home: Home, cases: list[Case]) -> Home:
    """A home whose endpoint answers with the shipped model and prompt, and has a suite."""

    def suites(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / "facts.jsonl", [{"id": c.id, "question": c.question, "answer": c.answer} for c in cases[:12]])
        return {}

    home.artifacts.build("evaluation_suites", {}, suites)
    state = State(home.endpoint)
    spec = Spec(str(MODEL), asdict(ANSWER), {})
    state.register(Release("model", ANSWER.id, None, "policy"), spec)
    state.set_traffic({next(iter(state.releases())): 1.0}, "test")
    state.close()
    return home


@pytest.mark.filterwarnings("ignore")  # MLflow's own, from its tables
def test_the_asset_shows_what_a_prompt_change_does_before_it_ships(released: Home, tmp_path: Path) -> None:
    from llm_pipeline.evaluation.prompt_registry import in_production, versions

    def run(prompt: Path, kept: bool = True) -> dict[str, Any]:
        with dg.instance_for_test() as instance:
            result = dg.materialize(
                [prompt_report],
                resources={"home": HomeResource(root=str(released.root))},
                run_config={"ops": {"prompt_report": {"config": {"prompt": str(prompt), "max_new_tokens": 8}}}},
                instance=instance,
            )
        assert [check.passed for check in result.get_asset_check_evaluations()] == [kept]
        [event] = result.asset_materializations_for_node("prompt_report")
        return {key: value.value for key, value in event.metadata.items()}

    file = tmp_path / "answer.yaml"
    file.write_text((FOLDER / "answer.yaml").read_text("utf-8"), "utf-8")
    same = run(file)
    assert (same["changed"], same["before"], same["registered_version"]) == (False, ANSWER.id, 1)
    assert "report" not in same
    assert in_production(released.mlflow_uri, "answer") == ANSWER.id
    file.write_text(file.read_text("utf-8") + "\nclosed: 'Question: {question}'\n", "utf-8")
    other = run(file, kept=False)
    assert (other["changed"], other["n"], other["reused"]) == (True, 12, False)
    assert other["answers_changed"] > 0
    assert "+closed: 'Question: {question}'" in other["change"]
    assert Path(other["report"]).is_file()
    assert run(file, kept=False)["reused"] is True
    assert versions(released.mlflow_uri, "answer") == {ANSWER.id: 1, load_prompt(file).id: 2}
    assert in_production(released.mlflow_uri, "answer") == ANSWER.id, "what is only in the project does not answer customers"
    found = CliRunner().invoke(app, ["prompts", "register", "answer", "answer_json", "--home", str(released.root), "--json"])
    assert json.loads(found.stdout)["answer"] == {"id": ANSWER.id, "version": 1}
    assert in_production(released.mlflow_uri, "answer_json") is None


@pytest.mark.filterwarnings("ignore")  # MLflow's own, from its tables
def test_without_a_release_the_last_report_is_what_a_prompt_is_compared_with(home: Home) -> None:
    first = build_prompt_report(home, PromptFile("answer", ANSWER))
    assert (first.info["before"], first.info["changed"]) == (None, False)
    again = build_prompt_report(home, PromptFile("answer", ANSWER))
    assert (again.info["before"], again.info["changed"]) == (ANSWER.id, False)
    other = build_prompt_report(home, PromptFile("answer", STRANGE))
    assert (other.info["before"], other.info["changed"]) == (ANSWER.id, False), "no model yet to ask"
