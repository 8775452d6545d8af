"""Generation, the report, the decision and their assets on a real (tiny, untrained) model, index and suites."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
import torch

from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.defs import evaluation, retrieval
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.errors import ConfigError, InputError, MissingError
from llm_pipeline.evaluation.build import EvalSettings, build_decision, build_report
from llm_pipeline.evaluation.generate import Generator, perplexity
from llm_pipeline.evaluation.suites import Suite, load_suites, primary_suite
from llm_pipeline.prompts import Prompt
from llm_pipeline.store import Home, write_jsonl
from llm_pipeline.training.base import BaseRecipe, build_model, practice_texts
from llm_pipeline.training.chat import END, train_tokenizer

RECIPE = BaseRecipe(vocab_size=400, hidden_size=32, intermediate_size=64, layers=2, heads=2, tokenizer_samples=40)
PROMPT = Prompt("Context:\n{passages}\nQuestion: {question}")
NAMES = [f"Item{i}" for i in range(60)]


def save_model(folder: Path, seed: int) -> dict[str, Any]:
    tokenizer = train_tokenizer(practice_texts(RECIPE, []), RECIPE.vocab_size)
    build_model(replace(RECIPE, seed=seed), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with documents, suites, a base and a candidate, as the other stages leave them."""
    home = Home(tmp_path_factory.mktemp("home"))
    columns = ("id", "uri", "external_id", "kind", "source", "title", "text")
    documents = [[name, f"kb://{name}", None, "article", "kb", name, f"The fee of {name} is ${i}."] for i, name in enumerate(NAMES)]
    schema = pa.schema({name: pa.string() for name in columns})
    home.lake.replace(
        "scrubbed_documents", "2026-01-01", pa.Table.from_pylist([dict(zip(columns, d, strict=True)) for d in documents], schema)
    )

    def suites(folder: Path) -> dict[str, Any]:
        rows = [
            {"id": n, "question": f"What is the fee of {n}?", "answer": f"${i}", "kind": "fact", "relevant": [f"kb://{n}"]}
            for i, n in enumerate(NAMES)
        ]
        write_jsonl(folder / "facts.jsonl", rows)
        write_jsonl(folder / "facts_after.jsonl", rows)
        write_jsonl(folder / "unanswerable.jsonl", [{"id": "u", "question": "Why?", "answer": REFUSAL, "kind": "refusal", "relevant": []}])
        (folder / "suites.json").write_text(
            json.dumps({"facts": {"n": 60, "valid_from": "2026-01-01"}, "facts_after": {"n": 60, "valid_from": "2026-01-08"}})
        )
        return {}

    def model(seed: int) -> Any:
        return lambda folder: save_model(folder / "model", seed)

    home.artifacts.build("evaluation_suites", {"v": 1}, suites)
    home.artifacts.build("base_model", {"seed": 0}, model(0))
    home.artifacts.build("candidate_model", {"seed": 1}, model(1))
    return home


@pytest.fixture(scope="module")
def generator(home: Home) -> Generator:
    return Generator(home.artifacts.named("base_model").path / "model", threads=1, batch_size=4)


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_answers_do_not_depend_on_their_batch(generator: Generator) -> None:
    questions = [
        ask("Fee?"),
        ask("What is the fee of the account that I opened in the spring? " * 5),
        ask("Hours?"),
        ask("Who?"),
        ask("Limit?"),
    ]

    def said(asked: list[Any]) -> list[tuple[str, bool, int]]:
        return [(answer.text, answer.finished, answer.tokens) for answer in generator.answer(asked, max_new_tokens=8)]

    together = said(questions)
    assert together == [said([question])[0] for question in questions]
    assert together == said(questions)
    assert all(tokens <= 8 for _, _, tokens in together)


def test_a_completion_ends_at_the_end_token(generator: Generator) -> None:
    end = generator.tokenizer.eos_token_id
    tokens = [*generator.tokenizer(" $5", add_special_tokens=False)["input_ids"], end, 7, 7]
    assert generator._completion(tokens, end).text == "$5"
    assert generator._completion(tokens, end).finished
    assert not generator._completion([7, 8], end).finished


def test_likelihoods_are_those_of_a_plain_forward_pass(generator: Generator) -> None:
    questions, references = [ask("What is the fee?"), ask("Hours? " * 9)], ["$5", "9:00 to 17:00"]
    found = generator.likelihoods(questions, references)
    for question, reference, likelihood in zip(questions, references, found, strict=True):
        prompt = generator.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        before = generator.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        after = generator.tokenizer(f" {reference}{END}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = generator.model(torch.tensor([before + after])).logits[0].log_softmax(-1)
        nll = -sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(after))
        assert likelihood.tokens == len(after)
        assert likelihood.nll == pytest.approx(nll, abs=1e-3)
    assert perplexity(found) > 1


def test_a_prompt_longer_than_the_window_still_gets_an_answer(generator: Generator) -> None:
    long = [ask("word " * 3_000)]
    assert generator.answer(long, max_new_tokens=4)
    assert generator.likelihoods(long, ["$5"])[0].tokens > 0


def test_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        Generator(tmp_path)


def test_the_stage_runs_as_assets(home: Home) -> None:
    """Chunks, index, both reports and the decision; run again, everything is reused."""
    resources = {"home": HomeResource(root=str(home.root))}
    assets = [*retrieval.defs.assets, *retrieval.defs.asset_checks, *evaluation.defs.assets, *evaluation.defs.asset_checks]  # type: ignore[misc]
    with dg.instance_for_test() as instance:
        daily = dg.materialize(assets, selection="chunks", partition_key="2026-01-01", instance=instance, resources=resources)
        assert daily.success
        rest = ["vector_index", "retrieval_report", "eval_report", "promotion_decision"]
        first = dg.materialize(assets, selection=rest, instance=instance, resources=resources)
        again = dg.materialize(assets, selection=rest, instance=instance, resources=resources)
        assert first.success
        assert {c.check_name: c.passed for c in first.get_asset_check_evaluations()}["live_index_answers"]
        for name in rest:
            [one], [two] = first.asset_materializations_for_node(name), again.asset_materializations_for_node(name)
            assert two.metadata["reused"].value is True
            assert one.tags["dagster/data_version"] == two.tags["dagster/data_version"]
    found = home.artifacts.named("retrieval_report").json("report.json")
    assert set(found) == {"facts", "facts_after"}
    assert found["facts"]["recall@5"] >= 0.9
    report = home.artifacts.named("eval_report").json("report.json")
    assert {(r["model"], r["mode"]) for r in report["results"]} == {("base", "closed"), ("candidate", "closed"), ("candidate", "retrieval")}
    assert set(report["results"][0]) >= {"suite", "n", "em", "em_low", "em_high", "rouge_l", "refusal", "groundedness", "perplexity"}
    assert report["primary"] == "facts_after"
    decision = home.artifacts.named("promotion_decision").json("decision.json")
    assert decision["verdict"] == "reject"
    assert decision["champion"] is None
    assert decision["challenger"] == home.artifacts.named("candidate_model").id


def test_the_page_is_self_contained_and_escapes(home: Home) -> None:
    from llm_pipeline.evaluation.report_models import render

    artifact = home.artifacts.named("eval_report") if home.artifacts.has("eval_report") else build_report(home, PROMPT)
    page = artifact.file("report.html").read_text("utf-8")
    assert not re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org)|<script", page)
    rows = artifact.jsonl("answers.jsonl")
    nasty = [row | {"answer": "<script>alert(1)</script>"} for row in rows]
    assert "<script>" not in render(artifact.json("report.json"), nasty)


def test_a_champion_is_compared_and_its_answers_are_not_made_again(home: Home) -> None:
    settings = EvalSettings(limit=60)
    first = build_report(home, PROMPT, settings)
    before = len(list((home.root / "artifacts" / "model_answers").glob("*/manifest.json")))
    home.artifacts.point("candidate_model", "champion", home.artifacts.named("candidate_model").id)
    try:
        second = build_report(home, PROMPT, settings)
        assert second.id != first.id
        assert len(list((home.root / "artifacts" / "model_answers").glob("*/manifest.json"))) == before
        artifact, decision = build_decision(home, minimum_em=0.0)
        assert decision.verdict == "insufficient", "the same model is never better than itself"
        assert artifact.json("decision.json")["champion"] == home.artifacts.named("candidate_model").id
    finally:
        (home.root / "artifacts" / "candidate_model" / "champion.ref").unlink()


@pytest.mark.parametrize(("until", "expected"), [("2026-01-07", "old"), ("2026-01-08", "new"), (None, "new")])
def test_the_suite_that_is_valid_decides(until: str | None, expected: str) -> None:
    row = ({"id": "1", "question": "?", "answer": "!"},)
    suites = {"old": Suite("old", row, "2026-01-01"), "new": Suite("new", row, "2026-01-08"), "plain": Suite("plain", row * 9)}
    assert primary_suite(suites, "", until) == expected
    assert primary_suite(suites, "plain", until) == "plain"
    assert primary_suite({"a": Suite("a", row), "b": Suite("b", row * 2)}, "", until) == "b"
    with pytest.raises(ConfigError, match="did you mean 'plain'"):
        primary_suite(suites, "plan", until)


def test_a_sample_does_not_depend_on_the_order() -> None:
    rows = tuple({"id": str(i), "question": str(i), "answer": "x"} for i in range(50))
    forward, backward = Suite("s", rows).sample(10), Suite("s", rows[::-1]).sample(10)
    assert len(forward.rows) == 10
    assert {row["id"] for row in forward.rows} == {row["id"] for row in backward.rows}


def test_a_suite_row_without_an_answer_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def bad(folder: Path) -> dict[str, Any]:
        write_jsonl(folder / "s.jsonl", [{"id": "1", "question": "?"}])
        return {}

    artifact = home.artifacts.build("evaluation_suites", {}, bad)
    with pytest.raises(InputError, match=r"s\.jsonl:1: .* missing answer"):
        load_suites(artifact)
    with pytest.raises(MissingError, match="no latest eval_report"):
        build_decision(home)
