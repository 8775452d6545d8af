"""The queue holds what is doubtful and says why; labels come back checked, and become calibration data, suites and preferences."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.judge_cases import Case, read_cases
from llm_pipeline.evaluation.judge_labels import read_labels
from llm_pipeline.evaluation.judge_rubric import Scale, load_rubric
from llm_pipeline.evaluation.review_labels import (
    Opinion,
    between_reviewers,
    check_opinions,
    label_rows,
    majority,
    read_opinions,
    review,
    sheet,
)
from llm_pipeline.evaluation.review_queue import Item, build_queue, read_queue, scrubbed
from llm_pipeline.evaluation.review_reasons import QueueSettings, comparable
from llm_pipeline.evaluation.review_use import preference_rows, suite_rows
from llm_pipeline.store import write_jsonl
from llm_pipeline.training.rows import read_rows as training_rows

RUNNER = CliRunner()


def case(i: int, answer: str = "", suite: str = "facts", reference: str | None = "r", **scores: float) -> Case:
    row = {"suite": suite, "id": f"q{i}", "source": "web" if i % 4 else "mail"}
    return Case(suite, f"q{i}", f"question {i}?", answer or f"answer {i}", reference, scores, row)


def cases(n: int = 60) -> list[Case]:
    """Exact match and judge agree but for every tenth answer; `refused` says something else."""
    return [case(i, em=float(i % 2), judge=float(i % 2) if i % 10 else 1.0 - i % 2, refused=1.0 - i % 2) for i in range(n)]


def test_contradicting_metrics_come_first_and_say_so() -> None:
    items = build_queue(cases(), settings=QueueSettings(n=6, audit=0, width=1.0))
    assert {item.origin["id"] for item in items} == {"q0", "q10", "q20", "q30", "q40", "q50"}
    assert {reason.detail for item in items for reason in item.why if reason.kind == "disagreement"} == {"em 0, judge 1"}


def test_metrics_that_measure_something_else_do_not_contradict() -> None:
    assert comparable(cases()) == [("em", "judge")]
    assert comparable(cases(), ("em", "refused")) == [("em", "refused")]
    with pytest.raises(InputError, match="metric 'bleu' is not in the rows; they have em, judge, refused"):
        comparable(cases(), ("bleu",))


def test_answers_of_slices_that_are_unsure_are_candidates() -> None:
    many = [case(i, em=1.0) for i in range(1, 200)] + [replace(case(1000, em=1.0), row={"suite": "facts", "id": "q1000", "source": "fax"})]
    items = build_queue(many, settings=QueueSettings(n=3, audit=0, width=0.5))
    assert [item.origin["id"] for item in items] == ["q1000"]
    assert items[0].why[0].detail.startswith("source=fax: em 1.000 [")
    assert items[0].why[0].detail.endswith("on 1 answers")


def test_what_a_judge_could_not_say_is_a_reason(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "metric": "judge_x"}
    judged = [
        row | {"id": "1", "judged": None, "problem": "empty reply"},
        row | {"id": "2", "judged": 1.0, "consistent": False},
        row | {"id": "3", "judged": 1.0, "flags": ["talks_to_judge"]},
        row | {"id": "4", "judged": 1.0},
    ]
    write_jsonl(tmp_path / "rows.jsonl", judged)
    items = build_queue(read_cases(tmp_path / "rows.jsonl"), settings=QueueSettings(n=4, audit=0, width=1.0))
    assert {item.origin["id"]: item.why[0].detail for item in items} == {
        "1": "judge_x gave no verdict: empty reply",
        "2": "judge_x changed with the order of the answers",
        "3": "judge_x: the answer speaks to the judge",
    }


def test_the_audit_is_a_stratified_sample_whose_weights_add_up() -> None:
    some = [case(i, suite="big") for i in range(90)] + [case(i, suite="small") for i in range(7)] + [case(0, suite="tiny")]
    items = build_queue(some, settings=QueueSettings(n=20, audit=1.0))
    assert Counter(item.origin["suite"] for item in items) == {"big": 18, "small": 1, "tiny": 1}
    assert sum(item.weight or 0 for item in items) == pytest.approx(98)
    by_source = build_queue(some, settings=QueueSettings(n=20, audit=1.0, by=("source",)))
    assert sum(item.weight or 0 for item in by_source) == pytest.approx(98)
    assert {reason.detail for item in by_source for reason in item.why} >= {
        "random sample of big source=web",
        "random sample of tiny source=mail",
    }
    assert len(build_queue(some, settings=QueueSettings(n=500, audit=1.0))) == 98


def test_the_same_input_gives_the_same_queue_and_another_seed_another_sample() -> None:
    settings = QueueSettings(n=20)
    first = build_queue(cases(), settings=settings)
    assert build_queue(cases()[::-1], settings=settings) == first
    assert len(first) == 20
    other = build_queue(cases(), settings=replace(settings, seed=1))
    assert {item.item for item in other if item.weight} != {item.item for item in first if item.weight}


def test_pairs_are_those_where_the_models_differ_in_an_order_that_tells_nothing() -> None:
    second = [replace(c, answer=f"other {c.id}", scores={"em": 1.0 - c.scores["em"]}) for c in cases(40)]
    items = build_queue(cases(40), second, QueueSettings(n=40, audit=0))
    assert len(items) == 40
    assert {item.options for item in items} == {("A", "B", "tie")}
    orders = Counter(item.models for item in items)
    assert orders.keys() == {("first", "second"), ("second", "first")}
    assert min(orders.values()) > 8
    for item in items:
        assert item.answers[item.models.index("second")].startswith("other")
    assert "models_differ" in {reason.kind for reason in items[0].why}
    assert build_queue(cases(40), cases(40), QueueSettings(n=40, audit=0)) == []


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="audit from 0 to 1"):
        QueueSettings(audit=2)


def test_personal_data_does_not_reach_reviewers() -> None:
    told = [
        replace(case(1, "Write to jane.roe@example.org."), question="My card 4111 1111 1111 1111 fails", reference="jane.roe@example.org")
    ]
    items, replaced = scrubbed(build_queue(told, settings=QueueSettings(n=1, audit=1.0)))
    text = json.dumps([item.json() for item in items])
    assert "jane.roe" not in text
    assert "4111" not in text
    assert replaced == 3
    assert items[0].scrubbed


def test_a_queue_reads_back_as_it_was_written(tmp_path: Path) -> None:
    for scale in (None, Scale(1, 5, 4, {1: "bad"})):
        items = build_queue(cases(), settings=QueueSettings(n=10), scale=scale)
        write_jsonl(tmp_path / "queue.jsonl", [item.json() for item in items])
        assert list(read_queue(tmp_path / "queue.jsonl").values()) == items
    write_jsonl(tmp_path / "queue.jsonl", [items[0].json()] * 2)
    with pytest.raises(InputError, match="stands twice"):
        read_queue(tmp_path / "queue.jsonl")


def item(name: str, task: Any = "pass", **more: Any) -> Item:
    answers = ("first answer", "second answer") if task == "pair" else ("the answer",)
    scale = Scale(1, 5, 4) if task == "score" else None
    return Item(name, task, f"question {name}?", answers, more.pop("reference", None), (), {"id": name, "suite": "s"}, scale=scale, **more)


ITEMS = {i.item: i for i in (item("p1"), item("p2", reference="r"), item("s1", "score"), item("x1", "pair"))}


def test_a_sheet_shows_no_scores_and_every_reviewer_has_an_order_of_their_own() -> None:
    items = build_queue(cases(), settings=QueueSettings(n=20))
    alice, bob = (sheet(items, name) for name in ("alice", "bob"))
    assert not {"why", "scores", "models", "origin", "weight"} & alice[0].keys()
    assert [row["item"] for row in alice] != [row["item"] for row in bob]
    assert {row["item"] for row in alice} == {row["item"] for row in bob}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"item": "p9", "label": True, "reviewer": "a"}, "sheet:1: unknown item 'p9'; known: p1, p2"),
        ({"item": "s1", "label": 6, "reviewer": "a"}, "sheet:1: label: received 6, expected one of 1, 2, 3, 4, 5"),
        ({"item": "s1", "label": True, "reviewer": "a"}, "received True, expected one of 1, 2"),
        ({"item": "p1", "label": 1, "reviewer": "a"}, "received 1, expected one of True, False"),
        ({"item": "x1", "label": "C", "reviewer": "a"}, "received 'C', expected one of A, B, tie"),
        ({"item": "p1", "label": "pass", "reviewer": " "}, "no reviewer"),
    ],
)
def test_wrong_labels_are_refused_by_line(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_opinions([(row, "sheet:1")], ITEMS)


def test_words_of_people_are_understood_and_empty_rows_skipped() -> None:
    rows = [("p1", "Pass"), ("p2", False), ("s1", "4"), ("x1", "b"), ("x1", None)]
    found = check_opinions([({"item": name, "label": label, "reviewer": "a"}, f"sheet:{i}") for i, (name, label) in enumerate(rows)], ITEMS)
    assert [opinion.label for opinion in found] == [True, False, 4, "B"]


def test_a_reviewer_who_says_two_things_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"item": "p1", "label": True}])
    write_jsonl(tmp_path / "b.jsonl", [{"item": "p1", "label": False}])
    with pytest.raises(InputError, match=r"b.jsonl:1: alice labelled the item p1 True before and False here"):
        read_opinions([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], ITEMS, "alice")
    assert len(read_opinions([tmp_path / "a.jsonl"] * 2, ITEMS, "alice")) == 1


def test_a_majority_settles_and_a_split_does_not() -> None:
    assert majority([True, True, False]) is True
    assert majority(["A", "B"]) is None
    assert majority([1, 2, 3]) is None
    done = review(
        ITEMS,
        [Opinion("p1", "a", True), Opinion("p1", "b", True), Opinion("p1", "c", False), Opinion("x1", "a", "A"), Opinion("x1", "b", "B")],
    )
    assert done.labels == {"p1": True}
    assert [(c["item"], c["label"]) for c in done.conflicts] == [("p1", True), ("x1", None)]
    assert [row["item"] for row in label_rows(done)] == ["p1"]


def test_agreement_between_reviewers_is_measured_by_task() -> None:
    items = {f"p{i}": item(f"p{i}") for i in range(50)} | {"x1": item("x1", "pair")}
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    opinions = [Opinion(f"p{i}", who, label) for who, side in (("a", first), ("b", second)) for i, label in enumerate(side)]
    passes, pairs = between_reviewers(review(items, [*opinions, Opinion("x1", "a", "A")]))
    assert passes["pairs"] == [{"reviewers": ["a", "b"], "n": 50, "agreement": 0.7, "kappa": 0.4}]
    assert passes["alpha"] == pytest.approx(0.4, abs=0.02)
    assert (pairs["task"], pairs["alpha"], pairs["pairs"]) == ("pair", None, [])


def test_suite_rows_take_the_correction_and_accepted_answers_without_reference() -> None:
    opinions = [Opinion("p1", "a", True), Opinion("p2", "a", False, "the right one"), Opinion("s1", "a", 2), Opinion("x1", "a", "B")]
    rows, skipped = suite_rows(label_rows(review(ITEMS, opinions)))
    assert [(row["id"], row["answer"]) for row in rows] == [("p1", "the answer"), ("p2", "the right one")]
    assert skipped == {"nothing_corrected": 2}
    two = [Opinion("p2", "a", False, "one"), Opinion("p2", "b", False, "two")]
    assert suite_rows(label_rows(review(ITEMS, two))) == ([], {"several_corrections": 1})


def test_preferences_are_rows_that_training_takes(tmp_path: Path) -> None:
    items = ITEMS | {"x2": item("x2", "pair")}
    opinions = [Opinion("x1", "a", "B"), Opinion("x2", "a", "tie"), Opinion("p2", "a", False, "the right one"), Opinion("p1", "a", True)]
    labels = label_rows(review(items, opinions))
    rows, skipped = preference_rows(labels)
    assert skipped == {"tie": 1, "no_second_answer": 1}
    write_jsonl(tmp_path / "dpo.jsonl", rows)
    found = {
        row["id"]: (row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in training_rows(tmp_path / "dpo.jsonl", "dpo")
    }
    assert found == {"x1": ("second answer", "first answer"), "p2": ("the right one", "the answer")}
    rows, skipped = preference_rows(labels, "kto")
    write_jsonl(tmp_path / "kto.jsonl", rows)
    assert [(row["id"], row["label"]) for row in training_rows(tmp_path / "kto.jsonl", "kto")] == [("p1", True), ("p2", False)]
    assert skipped == {"pair_is_no_approval": 2}


def invoke(*arguments: object) -> Any:
    result = RUNNER.invoke(app, ["review", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_verbs_from_rows_to_calibration_labels(tmp_path: Path, home: object) -> None:
    rows = [
        {"suite": "facts", "id": c.id, "metric": m, "score": s, "question": c.question, "answer": c.answer, "reference": "r"}
        for c in cases(30)
        for m, s in c.scores.items()
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = invoke("queue", tmp_path / "rows.jsonl", "--out", tmp_path / "queue.jsonl", "--n", 10, "--rubric", "correctness")
    assert found["items"] == 9  # one doubtful answer is in the sample too
    assert found["why"]["disagreement"] == 3
    assert found["why"]["audit"] == 7
    sheets = []
    for who, shift in (("alice", 0), ("bob", 1)):
        invoke("export", tmp_path / "queue.jsonl", "--out", tmp_path / f"{who}.jsonl", "--reviewer", who)
        filled = [json.loads(line) for line in (tmp_path / f"{who}.jsonl").read_text().splitlines()]
        for row in filled:
            row["label"] = 4 if row["question"] != "question 0?" else 2 + shift
        write_jsonl(tmp_path / f"{who}.jsonl", filled)
        sheets.append(tmp_path / f"{who}.jsonl")
    found = invoke("import", tmp_path / "queue.jsonl", *sheets, "--out", tmp_path / "labels.jsonl")
    assert (found["labelled"], found["labels"], found["conflicts"], found["unsettled"]) == (9, 8, 1, 1)
    (conflict,) = [json.loads(line) for line in (tmp_path / "labels.conflicts.jsonl").read_text().splitlines()]
    assert (conflict["id"], conflict["votes"]) == ("q0", {"alice": 2, "bob": 3})
    labels = read_labels(tmp_path / "labels.jsonl", load_rubric("correctness"))
    assert {labelled.label for labelled in labels} == {4}
    assert invoke("to-suite", tmp_path / "labels.jsonl", "--out", tmp_path / "s.jsonl")["skipped"] == {"nothing_corrected": 8}
    assert invoke("to-preferences", tmp_path / "labels.jsonl", "--out", tmp_path / "p.jsonl")["rows"] == 0


def test_export_without_a_place_is_bad_usage(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "queue.jsonl", [item("p1").json()])
    assert RUNNER.invoke(app, ["review", "export", str(tmp_path / "queue.jsonl")]).exit_code == 2
