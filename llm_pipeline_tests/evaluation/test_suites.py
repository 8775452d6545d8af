"""Suites are data: all that ship can be asked, what is wrong with a file is named, and the same rows are drawn every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.perturb import variants
from llm_pipeline.evaluation.suite_files import SuiteFile, SuiteSpec, find_suite, load_suite, make_suite, suite_names
from llm_pipeline.store import write_jsonl

ROWS = [{"id": "1", "question": "What is the fee?", "answer": "$5"}]
KINDS = {"quality", "robustness", "safety", "cost"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text("description: d\nmetrics: [exact_match]\n")
    write_jsonl(tmp_path / "mine.jsonl", ROWS)
    return tmp_path


@pytest.mark.parametrize("name", suite_names())
def test_a_shipped_suite_is_whole(name: str) -> None:
    suite = find_suite(name)
    assert 16 <= len({row.get("pair", row["id"]) for row in suite.rows}) <= 200
    assert suite.spec.kind in KINDS
    assert all(set(suite.spec.slices) <= set(row) for row in suite.rows)
    for row in suite.rows:
        if row.get("choices") and row.get("answer"):
            assert row["answer"] in row["choices"]
            assert len(set(row["choices"])) == len(row["choices"])


def test_the_shipped_suites_cover_what_they_promise() -> None:
    measured = {metric.name for name in suite_names() for metric in find_suite(name).metrics}
    assert measured >= {
        *("exact_match", "choice", "rouge_l", "bleu", "chrf", "perplexity", "semantic_similarity", "schema_valid", "refusal", "grounded"),
        *("drop", "calibration_error", "choice_gap", "choice_flip", "flip", "toxicity", "exposure", "verbatim", "pii_leak", "obeyed"),
        *("seconds", "cost"),
    }
    assert {find_suite(name).spec.kind for name in suite_names()} == KINDS


def test_every_kind_of_swap_is_a_pair_that_differs_in_nothing_else() -> None:
    rows = find_suite("fairness").rows
    assert set(Counter(row["pair"] for row in rows).values()) == {2}
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        same = one["question"].casefold().replace(one["swapped"].casefold(), "_")
        assert same == other["question"].casefold().replace(other["swapped"].casefold(), "_")


def test_canaries_have_controls_and_no_secret_twice() -> None:
    rows = find_suite("memorisation").rows
    assert Counter(bool(row["inserted"]) for row in rows) == {True: 12, False: 12}
    assert len({row["answer"] for row in rows}) == 24
    assert all(row["choices"][0] == row["answer"] and len(row["choices"]) == 400 for row in rows)


def test_the_id_follows_the_content(folder: Path) -> None:
    first = load_suite(folder / "mine.yaml").id
    assert load_suite(folder / "mine.yaml").id == first
    write_jsonl(folder / "mine.jsonl", [ROWS[0] | {"answer": "$6"}])
    second = load_suite(folder / "mine.yaml").id
    (folder / "mine.yaml").write_text("description: d\nmetrics: [rouge_l]\n")
    assert len({first, second, load_suite(folder / "mine.yaml").id}) == 3


@pytest.mark.parametrize(
    ("yaml", "rows", "message"),
    [
        ("description: d\nmetrics: [exact_mach]", ROWS, "did you mean 'exact_match'"),
        ("description: d\nmetrics: []", ROWS, "at least one"),
        ("description: d\nmetrics: [exact_match]\nmetric: x", ROWS, "did you mean 'metrics'"),
        ("description: d\nmetrics: [exact_match]\nperturb: [typos]", ROWS, "did you mean 'typo'"),
        ("description: d\nmetrics: [exact_match]\nthresholds: {rouge_l: {at_least: 1}}", ROWS, "does not measure 'rouge_l'"),
        ("description: d\nmetrics: [exact_match]", [{"id": "1", "question": "?"}], r"mine\.jsonl:1: the column 'answer' is missing"),
        ("description: d\nmetrics: [toxicity]", [{"id": "1"}], r"mine\.jsonl:1: received id; expected one of question, text and prefix"),
        ("description: d\nmetrics: [exact_match]", ROWS * 2, r"mine\.jsonl:2: the id '1' stands twice"),
        ("description: d\nmetrics: [exact_match]", [], "no rows"),
        ("description: d\nmetrics: [exact_match]\nrows: other.jsonl", ROWS, r"other\.jsonl: no such file"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, yaml: str, rows: list[dict[str, Any]], message: str) -> None:
    (folder / "mine.yaml").write_text(yaml)
    write_jsonl(folder / "mine.jsonl", rows)
    with pytest.raises((ConfigError, InputError), match=message):
        load_suite(folder / "mine.yaml")


def test_a_suite_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean 'reading'"):
        find_suite("readin")


def test_a_plain_file_of_questions_is_a_suite(folder: Path) -> None:
    suite = find_suite(str(folder / "mine.jsonl"))
    assert [metric.name for metric in suite.metrics] == ["exact_match", "rouge_l"]
    write_jsonl(folder / "bare.jsonl", [{"question": "What is the fee?", "answer": "$5"}, {"question": "Why?", "answer": "$5"}])
    one, two = find_suite(str(folder / "bare.jsonl")).rows
    assert one["id"] != two["id"], "rows without an id are told apart by what they say"


def test_a_sample_keeps_pairs_whole_and_every_kind_of_row() -> None:
    fairness = find_suite("fairness").sample(5)
    assert set(Counter(row["pair"] for row in fairness.rows).values()) == {2}
    assert len(fairness.rows) == 10
    canaries = find_suite("memorisation").sample(4)
    assert Counter(bool(row["inserted"]) for row in canaries.rows) == {True: 2, False: 2}
    suite = find_suite("reading")
    backwards = SuiteFile(suite.name, suite.spec, suite.rows[::-1], suite.metrics, suite.id)
    assert {row["id"] for row in suite.sample(7).rows} == {row["id"] for row in backwards.sample(7).rows}
    assert suite.sample(None) is suite


def test_defaults_are_columns_of_every_row() -> None:
    spec = SuiteSpec("d", ("schema_valid",), defaults={"schema": {"type": "integer"}})
    rows = make_suite("s", spec, [ROWS[0], ROWS[0] | {"id": "2", "schema": {"type": "null"}}]).rows
    assert [row["schema"]["type"] for row in rows] == ["integer", "null"]


@pytest.mark.parametrize("row", find_suite("robustness").rows[::13], ids=lambda row: str(row["id"]))
def test_perturbations_change_the_question_and_not_what_is_asked(row: dict[str, Any]) -> None:
    original, *others = variants({key: row[key] for key in row if key not in ("pair", "variant")}, ("typo", "paraphrase", "order"))
    assert others == variants(original, ("typo", "paraphrase", "order"))[1:], "the same variants every time"
    by_name = {other["variant"]: other for other in others}
    assert by_name["typo"]["question"] != original["question"]
    assert len(by_name["typo"]["question"].split()) == len(original["question"].split())
    assert by_name["paraphrase"]["question"] in original["paraphrases"]
    sentences = [sorted(s for p in one["context"] for s in p.rstrip(".").split(". ")) for one in (original, by_name["order"])]
    assert [s.rstrip(".") for s in sentences[0]] == [s.rstrip(".") for s in sentences[1]]
    assert {(other["answer"], other["pair"]) for other in others} == {(original["answer"], original["id"])}


def test_a_typing_error_spares_the_words_of_the_answer_and_numbers() -> None:
    row = {"id": "x", "question": "Is Saturday 12345 better than another weekday?", "answer": "Saturday"}
    for n in range(20):
        changed = variants(row | {"id": str(n)}, ("typo",))[1]["question"]
        assert "Saturday 12345" in changed
