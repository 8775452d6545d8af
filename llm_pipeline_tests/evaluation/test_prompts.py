"""Prompts as files: what a model sees, however hostile the text; what is read in a reply; ids, tests, registry and releases."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llm_pipeline.config import build
from llm_pipeline.errors import ConfigError
from llm_pipeline.evaluation.cli_prompts import register as add_verbs
from llm_pipeline.evaluation.prompt_select import as_yaml
from llm_pipeline.evaluation.prompt_tests import failures, token_count
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import FOLDER, Example, Output, Prompt, PromptFile, PromptTest, Reasoning, find_file, load_file, load_prompt
from llm_pipeline.store import Home, content_hash

app = typer.Typer()
add_verbs(app)
SHIPPED = sorted(FOLDER.glob("*.yaml"))
ANSWER = load_prompt(FOLDER / "answer.yaml")
HOSTILE = st.text(st.one_of(st.sampled_from("{}%$\\\n"), st.characters(codec="utf-8")), min_size=1) | st.sampled_from(
    ["{question}", "{passages}", "{schema}", "{0.__class__}", "{{}}", "%s", "\\1", "\\g<0>", "{", "}"]
)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@given(question=HOSTILE, passages=st.lists(HOSTILE, min_size=1, max_size=4))
def test_braces_are_text_in_questions_and_passages(question: str, passages: list[str]) -> None:
    [message] = ANSWER.messages(ask(question), passages)
    assert message["content"] == "Context:\n" + "\n".join(passages) + "\nQuestion: " + question


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@settings(max_examples=50)
@given(question=HOSTILE, passages=st.lists(HOSTILE, max_size=3), answer=st.text(st.characters(codec="utf-8"), min_size=1))
def test_shipped_prompts_keep_what_was_asked_and_read_back_what_they_show(
    path: Path, question: str, passages: list[str], answer: str
) -> None:
    prompt = load_prompt(path)
    calm, messages = prompt.messages(ask("Q"), ["P"] * len(passages)), prompt.messages(ask(question), passages)
    assert [m["role"] for m in messages] == [m["role"] for m in calm]
    assert messages[:-1] == calm[:-1], "what was asked changes the last turn alone"
    assert "\n".join(passages) in messages[-1]["content"]
    assert question in messages[-1]["content"]
    reply = prompt.turns(Example(question, answer, tuple(passages)))[1]["content"]
    assert "Answer:" in answer or (prompt.answer_of(reply) or "").strip() == answer.strip()


def test_a_new_kind_of_part_changes_no_old_id() -> None:
    assert ANSWER.id == "796656f007fe4380", "the id in releases and datasets made before prompts had examples"
    assert ANSWER.id == content_hash({"grounded": ANSWER.grounded, "system": None})
    others = [
        replace(ANSWER, system="Be brief."),
        replace(ANSWER, closed="Q: {question}"),
        replace(ANSWER, examples=(Example("a", "b"),)),
        replace(ANSWER, reasoning=Reasoning("Think.")),
        replace(ANSWER, output=Output({"properties": {"answer": {}}})),
    ]
    assert len({prompt.id for prompt in (ANSWER, *others)}) == 6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_prompt_survives_json_and_yaml(path: Path, tmp_path: Path) -> None:
    prompt = load_prompt(path)
    assert build(Prompt, json.loads(json.dumps(asdict(prompt))), "here") == prompt
    (tmp_path / "copy.yaml").write_text(as_yaml(prompt, "A copy."), "utf-8")
    assert load_file(tmp_path / "copy.yaml") == PromptFile("copy", prompt, "A copy.")


def test_a_conversation_keeps_its_turns_and_its_own_system_message() -> None:
    prompt = replace(ANSWER, system="Ours.", examples=(Example("E?", "e", ("Text.",)),), closed="Q: {question}")
    history = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two?"}]
    found = prompt.messages(history)
    assert [m["role"] for m in found] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert found[1]["content"] == "Context:\nText.\nQuestion: E?"
    assert [m["content"] for m in found[3:]] == ["One?", "1", "Q: Two?"]
    theirs = prompt.messages([{"role": "system", "content": "Theirs."}, *ask("Two?")])
    assert [m["content"] for m in theirs] == ["Theirs.", "Context:\nText.\nQuestion: E?", "e", "Q: Two?"]
    assert history[2]["content"] == "Two?", "the caller's messages stay as they are"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("grounded: '{passages}'", "field {question} is missing"),
        ("grounded: '{passages} {question} {qestion}'", "unknown field {qestion}; did you mean 'question'"),
        ("grounded: '{passages} {question}'\nclosed: 'hello'", "prompt, closed: the field {question} is missing"),
        ("grounded: '{passages} {question}'\nsystem: '{schema}'", "prompt, system: unknown field {schema}"),
        ("grounded: '{passages} {question}'\nsytem: x", "unknown key 'sytem'; did you mean 'system'"),
        ("grounded: '{passages} {question}'\nexamples: [{question: a}]", "examples.0.answer"),
        ("grounded: '{passages} {question}'\noutput: {schema: {type: nonsense}}", "output schema"),
        ("grounded: '{passages} {question}'\noutput: {schema: {properties: {anser: {}}}}", "did you mean 'anser'"),
        ("grounded: '{passages} {question}'\ntests: [{questions: a}]", "unknown key 'questions'"),
        ("- a list", "expected the keys of a prompt"),
    ],
)
def test_a_wrong_file_is_refused_by_name(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigError) as error:
        load_prompt(path)
    assert message in str(error.value)
    assert "wrong.yaml" in str(error.value)


@pytest.mark.parametrize(
    "reply", ["", "{", "}{", "[1]", '{"answer": 5}', '{"answer": "x", "more": 1}', "{" * 5_000 + "}", '{"answer": ""}']
)
def test_what_is_no_object_of_the_schema_is_no_answer(reply: str) -> None:
    assert find_file("answer_json").prompt.answer_of(reply) is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_prompts_keep_their_promises(path: Path) -> None:
    file = load_file(path)
    assert file.description
    assert file.tests
    assert failures(file, token_count(DATA / "models" / "tiny_base")) == []


def test_a_broken_promise_is_told() -> None:
    tests = (
        PromptTest("Q", ("P",), contains=("absent",), lacks=("Question",), roles=("system", "user"), max_tokens=1),
        PromptTest("Q", reply="5", answer="6"),
    )
    found = failures(PromptFile("p", ANSWER, tests=tests), lambda messages: 7)
    assert [line.split(": ")[0] for line in found] == ["p, test 1"] * 4 + ["p, test 2"]
    for text in ("expected 'absent'", "no 'Question'", "roles user, expected system, user", "7 tokens, expected at most 1", "read '5'"):
        assert any(text in line for line in found)


def test_the_verbs_list_show_and_test(tmp_path: Path) -> None:
    run = CliRunner().invoke
    listed = json.loads(run(app, ["prompts", "list", "--json"]).stdout)
    assert {entry["name"]: entry["id"] for entry in listed}["answer"] == ANSWER.id
    shown = json.loads(run(app, ["prompts", "show", "answer", "--question", "Q{x}", "--context", "P", "--json"]).stdout)
    assert shown["messages"] == [{"role": "user", "content": "Context:\nP\nQuestion: Q{x}"}]
    assert run(app, ["prompts", "test"]).exit_code == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("grounded: '{passages} {question}'\ntests: [{question: Q, contains: [absent]}]", "utf-8")
    failed = run(app, ["prompts", "test", str(bad), "--json"])
    assert failed.exit_code == 1
    assert "absent" in json.loads(failed.stdout)["failed"][0]
    with pytest.raises(ConfigError, match="did you mean 'answer'"):
        run(app, ["prompts", "show", "answr"], catch_exceptions=False)


@pytest.mark.filterwarnings("ignore")  # MLflow's own, from its tables
def test_the_registry_has_one_version_per_hash_and_an_alias_on_the_released_one(home: Home) -> None:
    from llm_pipeline.evaluation.prompt_registry import in_production, register, versions

    uri, other = home.mlflow_uri, find_file("answer_json").prompt
    assert versions(uri, "answer") == {}
    assert in_production(uri, "answer") is None
    assert [register(uri, "answer", prompt) for prompt in (ANSWER, other, ANSWER)] == [1, 2, 1]
    assert in_production(uri, "answer") is None
    register(uri, "answer", other, production=True)
    assert in_production(uri, "answer") == other.id
    register(uri, "answer", ANSWER, production=True)
    assert (in_production(uri, "answer"), versions(uri, "answer")) == (ANSWER.id, {ANSWER.id: 1, other.id: 2})


def test_a_release_is_bound_to_its_prompt(home: Home, tmp_path: Path) -> None:
    """Another prompt file is another release, and the release holds the wording itself, examples and all."""
    from llm_pipeline.serving.traffic.release import make_release, resolve

    def nothing(folder: Path) -> dict[str, Any]:
        (folder / "model").mkdir()
        return {}

    made = home.artifacts.build("candidate_model", {}, nothing)

    def promote(folder: Path) -> dict[str, Any]:
        (folder / "decision.json").write_text(json.dumps({"verdict": "promote", "challenger": made.id}))
        return {}

    def harmless(folder: Path) -> dict[str, Any]:
        (folder / "report.json").write_text(json.dumps({"models": {"candidate": made.id}, "broken": []}))
        return {}

    home.artifacts.build("promotion_decision", {}, promote)
    home.artifacts.build("safety_report", {}, harmless)
    file = tmp_path / "mine.yaml"
    file.write_text((FOLDER / "answer_few_shot.yaml").read_text("utf-8"), "utf-8")
    first = make_release(home, {}, prompt=file)
    file.write_text(file.read_text("utf-8").replace("$12", "$13"), "utf-8")
    second = make_release(home, {}, prompt=file)
    assert first.id != second.id
    release, spec = resolve(home, first)
    assert release.prompt == load_prompt(FOLDER / "answer_few_shot.yaml").id
    assert build(Prompt, json.loads(json.dumps(asdict(spec)))["prompt"], "spec") == load_prompt(FOLDER / "answer_few_shot.yaml")
    assert resolve(home, second)[0].prompt == load_prompt(file).id != release.prompt
