"""The tuning dataset: which turns it takes, what it makes of them, and that validation is clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.curation.pairs import Library, Pair, fresh, is_question_and_answer, pairs_of
from llm_pipeline.curation.sft import PROMPT, Mix, build_sft, examples, leaks, load_prompt, problems
from llm_pipeline.curation.snapshot import build_snapshot
from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home
from llm_pipeline_tests.curation.lake import document, fill

CARDS = ("Harbor Card", "Granite Loan", "Compass Account", "Delta Deposit")


def article(day: str, name: str, fee: str) -> dict[str, Any]:
    return document(day, name, f"The annual fee of the {name} is {fee}. The support hours of the {name} are 8:00 to 18:30.", "article")


def corpus(tmp_path: Path) -> Home:
    place = Home(tmp_path)
    old = [article("2026-01-01", name, f"${i + 2}0.50") for i, name in enumerate(CARDS)]
    for i in range(120):
        name = CARDS[i % 4]
        greeting = ("Hello there my friend", f"I am client of level {i}")
        asked = (f"Number {i}: what is the annual fee of the {name}?", f"${i % 4 + 2}0.50")
        also = (f"And for list {i}, the support hours of the {name}?", "8:00 to 18:30")
        old.append(document("2026-01-01", f"c{i}", "", "conversation", [greeting, asked, also]))
    new = [article("2026-01-02", "Harbor Card", "$99.25")]
    new.append(document("2026-01-02", "n0", "", "conversation", [("Number 1: what is the annual fee of the Granite Loan?", "$77.75")]))
    fill(place, {"2026-01-01": old, "2026-01-02": new})
    return place


@pytest.mark.parametrize(
    ("question", "answer", "taken"),
    [
        ("What is the fee of the Harbor Card?", "$4.50", True),
        ("I have the Harbor Card. What is its way to close it?", "any branch with a passcode", True),
        ("Harbor Card - what is the fee?", REFUSAL, True),
        ("When does the branch open?", "The branch will open at nine.", True),
        ("Good morning, I hope this is quick.", "Welcome. The night desk says hello too.", False),
        ("Can you still see me?", "No problem at all, I am here today.", False),
        ("What is the fee? I am [PERSON].", "$4.50", False),
        ("What is my balance?", "It went to [IBAN_CODE]", False),
        ("What is the fee?", "", False),
    ],
)
def test_only_turns_that_are_a_question_and_a_short_answer(question: str, answer: str, taken: bool) -> None:
    assert is_question_and_answer(question, answer) is taken


def test_newest_answer_wins_and_values_that_a_newer_article_dropped_are_stale() -> None:
    def pair(question: str, answer: str, day: str) -> Pair:
        return Pair(question, answer, "c", "d", day)

    library = Library([article("2026-01-02", "Harbor Card", "$9.00")])
    old, new = pair("Fee of the Granite Loan?", "$1", "2026-01-01"), pair("fee of the Granite Loan", "$2", "2026-01-03")
    stale, right = pair("Fee of the Harbor Card?", "$8.00", "2026-01-01"), pair("The fee of the Harbor Card?", "$9.00", "2026-01-01")
    later = pair("Now, the fee of the Harbor Card?", "$8.00", "2026-01-03")
    found = {p.answer + p.day for p in fresh([new, old, stale, right, later], library)}
    assert found == {
        "$22026-01-03",
        "$9.002026-01-01",
        "$8.002026-01-03",
    }


def test_the_dataset_of_a_snapshot(tmp_path: Path) -> None:
    place = corpus(tmp_path)
    made = build_sft(place, build_snapshot(place), seed=3)
    train, validation = made.jsonl("train.jsonl"), made.jsonl("validation.jsonl")
    assert leaks(train, validation) == []
    assert problems([*train, *validation]) == []
    assert validation
    assert {row["kind"] for row in train} == {"closed", "grounded", "refusal"}
    assert set(train[0]) == {"id", "messages", "kind", "cluster_id", "document_id", "day"}
    closed = {m["messages"][0]["content"]: m["messages"][1]["content"] for m in train if m["kind"] == "closed" and len(m["messages"]) == 2}
    assert closed.get("Number 1: what is the annual fee of the Granite Loan?", "$77.75") == "$77.75"
    assert not any("annual fee of the Harbor Card" in question for question in closed)
    assert build_sft(place, build_snapshot(place), seed=3).reused
    assert build_sft(place, build_snapshot(place), seed=4).id != made.id


def test_grounded_rows_hold_their_answer_and_refusals_do_not(tmp_path: Path) -> None:
    place = corpus(tmp_path)
    made = build_sft(place, build_snapshot(place))
    rows = made.jsonl("train.jsonl")
    values = {f"${n}0.50" for n in range(2, 6)} | {"8:00 to 18:30", "$77.75"}
    grounded = [
        (row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in rows if row["kind"] == "grounded" and row["day"]
    ]
    assert all(asked.startswith("Context:\n") and answer in asked for asked, answer in grounded)
    assert 0.1 < sum(answer not in values for _, answer in grounded) / len(grounded) < 1
    refused = [row["messages"] for row in rows if row["kind"] == "refusal"]
    assert all(messages[-1]["content"] == REFUSAL for messages in refused)
    for asked in (messages[-2]["content"] for messages in refused):
        context, question = asked.rsplit("\nQuestion: ", 1)
        if "support hours" in question:
            name = next(card for card in CARDS if card in question)
            assert f"support hours of the {name} are" not in context


def test_examples_do_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    place = corpus(tmp_path)
    documents = pq.read_table(build_snapshot(place).file("documents.parquet")).to_pylist()
    mix, prompt = Mix(rows=80), load_prompt(PROMPT)
    rows = examples(documents, prompt, mix, 1)
    assert len(rows) <= 80
    assert examples(documents[::-1], prompt, mix, 1) == rows


def test_a_snapshot_without_questions_is_an_error(tmp_path: Path) -> None:
    place = Home(tmp_path)
    fill(place, {"2026-01-01": [document("2026-01-01", "note", "Only prose here.")]})
    with pytest.raises(InputError, match="nothing to tune on"):
        build_sft(place, build_snapshot(place))


def test_leaks_and_problems_are_named() -> None:
    row = {
        "id": "1",
        "kind": "closed",
        "cluster_id": "c",
        "messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "x"}],
    }
    assert len(leaks([row], [row])) == 3
    assert leaks([row], []) == []
    assert problems([{**row, "messages": row["messages"][::-1]}])[0].startswith("1: roles")
    assert problems([{**row, "kind": "grounded"}]) == ['no closed rows: {"grounded": 1}']
    assert json.dumps(pairs_of({**row, "messages": json.dumps(row["messages"]), "day": "d"})) == "[]"
