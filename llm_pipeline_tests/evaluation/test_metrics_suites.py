"""The metrics that suites name, each against a value worked out otherwise; and one of one's own, in a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pipeline.errors import ConfigError
from llm_pipeline.evaluation.evaluate import evaluate_suite
from llm_pipeline.evaluation.generate import Completion, Generator, Likelihood, perplexity
from llm_pipeline.evaluation.measure import Metric, Outputs, find_metric, find_metrics, metric_names
from llm_pipeline.evaluation.measures import exact_match
from llm_pipeline.evaluation.suite_files import SuiteSpec, load_suite, make_suite
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import Prompt
from llm_pipeline.store import write_jsonl

PROMPT = Prompt("Context:\n{passages}\nQuestion: {question}")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(DATA / "models" / "tiny_base", threads=1)


def said(text: str, **options: Any) -> Outputs:
    return Outputs(Completion(text, True, len(text.split()), **options))


def chosen(*probabilities: float) -> Outputs:
    return Outputs(choices=tuple(Likelihood(-math.log(p), 1) for p in probabilities))


def score(name: str, row: dict[str, Any], outputs: Outputs) -> float | None:
    metric = find_metric(name)
    assert metric.score
    return metric.score(row, outputs)


def corpus(name: str, answered: list[tuple[dict[str, Any], Outputs]]) -> dict[str, Any]:
    metric = find_metric(name)
    assert metric.corpus
    return dict(metric.corpus(answered))


@pytest.mark.parametrize("name", metric_names())
def test_every_metric_says_what_it_measures(name: str) -> None:
    metric = find_metric(name)
    assert metric.description.count(" ") > 5
    assert metric.name == name


@pytest.mark.parametrize(
    ("name", "row", "text", "expected"),
    [
        ("exact_match", {"answer": "$5"}, "$5.", 1),
        ("exact_match", {"answer": "$5"}, "$50", 0),
        ("exact_match", {"answer": "five", "answers": ["$5"]}, "$5", 1),
        ("last_number", {"answer": "72"}, "48 + 24 = 72 clips.", 1),
        ("last_number", {"answer": "1,000"}, "It is $1000.00", 1),
        ("last_number", {"answer": "72"}, "First 72, then 73", 0),
        ("last_number", {"answer": "72"}, "many", 0),
        ("last_number", {"answer": "many"}, "72", None),
        ("rouge_l", {"answer": "a cat sat"}, "a cat ran", 2 / 3),
        ("schema_valid", {"schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', 1),
        ("schema_valid", {"schema": {"type": "object", "required": ["a"]}}, '```json\n{"a": 1}\n```', 1),
        ("schema_valid", {"schema": {"type": "object", "required": ["a"]}}, '{"b": 1}', 0),
        ("schema_valid", {"schema": {"type": "object"}}, 'Here it is: {"b": 1}', 0),
        ("schema_valid", {"schema": {"type": "object"}}, "[" * 100_000, 0),
        ("refusal", {"kind": "refusal"}, "I do not know.", 1),
        ("refusal", {"kind": "fact"}, "I do not know.", 0),
        ("grounded", {"context": ["The fee is $5."]}, "$5", 1),
        ("grounded", {"context": ["The fee is $5."]}, "$6", 0),
        ("grounded", {"context": ["The fee is $5."]}, "I do not know.", None),
        ("obeyed", {"canary": "ZEBRA-1"}, "Sure: zebra-1", 1),
        ("obeyed", {"canary": "ZEBRA-1"}, "The fee is $5.", 0),
        ("pii_leak", {"question": "Where?"}, "Write to anna.berg@example.com", 1),
        ("pii_leak", {"question": "Is anna.berg@example.com yours?"}, "Yes, anna.berg@example.com is.", 0),
        ("pii_leak", {"question": "Where?"}, "At the front desk.", 0),
        ("toxicity", {}, "The museum opens at nine.", 0),
    ],
)
def test_scores_of_answers(name: str, row: dict[str, Any], text: str, expected: float | None) -> None:
    assert score(name, row, said(text)) == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_abuse_is_toxic() -> None:
    found = score("toxicity", {}, said("You are a fucking idiot and everybody hates you."))
    assert found is not None
    assert found > 0.8


def test_bleu_and_chrf_are_those_of_sacrebleu_over_the_corpus() -> None:
    import sacrebleu

    answers, references = ["the cat sat on the mat today", "he reads a book"], ["the cat sat on the mat", "he is reading a book"]
    answered = [({"answer": r}, said(a)) for a, r in zip(answers, references, strict=True)]
    assert corpus("bleu", answered)["value"] == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score / 100, abs=1e-6)
    assert corpus("chrf", answered)["value"] == pytest.approx(sacrebleu.corpus_chrf(answers, [references]).score / 100, abs=1e-6)
    assert score("bleu", {"answer": "the cat sat on the mat"}, said("the cat sat on the mat")) == pytest.approx(1)


def test_meaning_counts_where_words_do_not() -> None:
    row = {"answer": "It measures how warm something is."}
    near, far = (
        score("semantic_similarity", row, said(text)) for text in ("A device that shows the temperature.", "Two ferries are late.")
    )
    assert near is not None
    assert far is not None
    assert near > far + 0.2
    assert score("semantic_similarity", row, said("")) == 0


def test_choice_is_judged_per_character() -> None:
    row = {"choices": ["a", "abcdefgh"], "answer": "abcdefgh"}
    assert score("choice", row, Outputs(choices=(Likelihood(2, 1), Likelihood(8, 5)))) == 1
    assert score("choice", row, Outputs(choices=(Likelihood(1, 1), Likelihood(9, 5)))) == 0


def test_brier_and_calibration_error() -> None:
    row = {"choices": ["a", "b"], "answer": "a"}
    assert score("brier", row, chosen(0.8, 0.2)) == pytest.approx(0.08)
    answered = [(row, chosen(0.72, 0.28))] * 3 + [(row, chosen(0.28, 0.72))] + [(row, chosen(0.95, 0.05))]
    found = corpus("calibration_error", answered)
    assert found["value"] == pytest.approx((4 * abs(0.72 - 0.75) + 0.05) / 5, abs=1e-6)
    assert [(b["from"], b["n"], b["accuracy"]) for b in found["bins"]] == [(0.7, 4, 0.75), (0.9, 1, 1.0)]


def test_a_calibrated_model_has_almost_no_calibration_error() -> None:
    r = np.random.default_rng(0)
    answered = []
    for p in r.uniform(0.5, 1, 4000):
        row = {"choices": ["a", "b"], "answer": "a" if r.random() < p else "b"}
        answered.append((row, chosen(p, max(1e-9, 1 - p))))
    assert corpus("calibration_error", answered)["value"] < 0.03


def test_refusal_quality_is_a_harmonic_mean() -> None:
    refused, kept = said("I do not know."), said("$5")
    answered = [({"kind": "refusal"}, refused), ({"kind": "refusal"}, kept), ({"kind": "fact"}, refused), ({"kind": "fact"}, kept)]
    assert corpus("refusal", answered) == {"value": 0.5, "precision": 0.5, "recall": 0.5}


def test_seconds_and_cost() -> None:
    prices = {"input_per_million": 2.0, "output_per_million": 10.0, "device_hour": 3.6}
    outputs = [Outputs(Completion("x", True, 100, prompt_tokens=500, seconds=s)) for s in (1.0, 3.0)]
    assert score("cost", {"prices": prices}, outputs[0]) == pytest.approx(500 * 2e-6 + 100 * 1e-5 + 0.001)
    found = corpus("seconds", [({}, one) for one in outputs])
    assert (found["p50"], found["tokens_per_second"]) == (2.0, 50.0)
    assert corpus("cost", [({"prices": prices}, one) for one in outputs])["value"] == pytest.approx(1000 * (0.001 + 0.001 + 0.002))
    with pytest.raises(ConfigError, match="did you mean 'device_hour'"):
        score("cost", {"prices": {"device_hours": 1}}, outputs[0])


def test_pairs_are_compared_with_their_original() -> None:
    one, other = {"answer": "$5", "choices": ["yes", "no"]}, {"answer": "$5", "choices": ["yes", "no"]}

    def pair(name: str, before: Outputs, after: Outputs) -> float | None:
        metric = find_metric(name)
        assert metric.score_pair
        return metric.score_pair(one, before, other, after)

    assert (pair("drop", said("$5"), said("$6")), pair("drop", said("$6"), said("$5"))) == (1, -1)
    assert pair("choice_gap", chosen(0.6, 0.4), chosen(0.9, 0.1)) == pytest.approx(0.3)
    assert (pair("choice_flip", chosen(0.6, 0.4), chosen(0.9, 0.1)), pair("choice_flip", chosen(0.6, 0.4), chosen(0.4, 0.6))) == (0, 1)
    metric = find_metric("flip")
    assert metric.score_pair
    assert metric.score_pair({"swapped": "Emily"}, said("Emily may."), {"swapped": "Wei"}, said("Wei may.")) == 0
    assert metric.score_pair({"swapped": "Emily"}, said("Emily may."), {"swapped": "Wei"}, said("Wei may not.")) == 1


def test_a_metric_of_ones_own_is_one_function_in_one_file(generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "brevity.py").write_text(
        '"""One for an answer of at most three words."""\n\ndef score(row, outputs):\n    return float(len(outputs.text.split()) <= 3)\n'
    )
    (tmp_path / "mine.yaml").write_text("description: d\nmetrics: [brevity.py, llm_pipeline.evaluation.measures.exact_match]\n")
    context = ["The fee of the Blue account is $5."]
    write_jsonl(
        tmp_path / "mine.jsonl", [{"id": "1", "question": "What is the fee of the Blue account?", "context": context, "answer": "$5"}]
    )
    rows, report = evaluate_suite(generator, load_suite(tmp_path / "mine.yaml"), PROMPT)
    assert [(row["metric"], row["score"], row["answer"]) for row in rows] == [("brevity", 1.0, "$5"), ("exact_match", 1.0, "$5")]
    assert [figure["value"] for figure in report["figures"]] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("X = 1\n", "expected a function `score"),
        ('NEEDS = ("answers",)\n\ndef score(row, outputs):\n    return 1.0\n', "did you mean 'answer'"),
    ],
)
def test_a_file_that_is_no_metric(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.py").write_text(content)
    with pytest.raises(ConfigError, match=message):
        find_metric("m.py", tmp_path)


def test_unknown_metrics_are_named() -> None:
    for name, message in (("rouge", "did you mean 'rouge_l'"), ("absent.module", "no such module"), ("absent.py", "no such file")):
        with pytest.raises(ConfigError, match=message):
            find_metrics([name])


def test_choices_of_a_model_are_the_likelihoods_of_a_plain_pass(generator: Generator) -> None:
    """The shared beginning is read once; the figures are those of reading everything anew."""
    question = [{"role": "user", "content": "Context:\nThe fee of Basic is $5.\nQuestion: What is the fee of Basic?"}]
    for asked in (question, "The vault code is "):
        choices = ["$5", "$300", "9:00 to 17:00", "twelve"]
        [found] = generator.choices([asked], [choices])
        plain = generator.likelihoods([asked] * 4, choices)
        assert [one.tokens for one in found] == [one.tokens for one in plain]
        assert [one.nll for one in found] == pytest.approx([one.nll for one in plain], abs=1e-3)


def test_perplexity_of_plain_texts_and_of_answers(generator: Generator) -> None:
    texts = ["The fee is charged on the first day of each month.", "zq xv 9"]
    suite = make_suite("p", SuiteSpec("d", ("perplexity",)), [{"id": str(i), "text": text} for i, text in enumerate(texts)])
    rows, report = evaluate_suite(generator, suite, PROMPT)
    found = generator.likelihoods(["", ""], texts)
    assert report["figures"][0]["value"] == pytest.approx(perplexity(found), rel=1e-4)
    assert rows[0]["score"] < rows[1]["score"]


def test_a_perturbed_suite_scores_each_variant_and_what_it_costs(generator: Generator) -> None:
    rows = [
        {
            "id": str(i),
            "question": f"What is the fee of the Item{i} account?",
            "answer": f"${i}",
            "context": [f"The fee of the Item{i} account is ${i}."],
        }
        for i in range(3, 7)
    ]
    suite = make_suite("r", SuiteSpec("d", ("exact_match", "drop"), "robustness", perturb=("typo", "paraphrase")), rows)
    scored, _ = evaluate_suite(generator, suite, PROMPT)
    by_id = {row["id"]: row["score"] for row in scored if row["metric"] == "exact_match"}
    drops = {row["id"]: row["score"] for row in scored if row["metric"] == "drop"}
    assert set(drops) == {f"{i}#{name}" for i in range(3, 7) for name in ("typo", "paraphrase")}
    assert all(value == by_id[identity.partition("#")[0]] - by_id[identity] for identity, value in drops.items())
    assert {row["slices"]["variant"] for row in scored} == {"original", "typo", "paraphrase"}
    assert sum(by_id[str(i)] for i in range(3, 7)) >= 3, "the model reads what is stated"


def test_a_score_that_is_no_number_is_left_out(generator: Generator) -> None:
    suite = make_suite("s", SuiteSpec("d", ("exact_match",)), [{"id": "1", "question": "?", "answer": "x"}])
    broken = Metric("broken", "", lambda row, outputs: float("nan"), None, None)
    nothing = Metric("nothing", "", lambda row, outputs: None, None, None)
    rows, report = evaluate_suite(generator, type(suite)(suite.name, suite.spec, suite.rows, (broken, nothing), suite.id), PROMPT)
    assert rows == []
    assert [figure["value"] for figure in report["figures"]] == [None, None]
    assert exact_match.score(suite.rows[0], said("X")) == 1
