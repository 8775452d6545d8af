"""Explanations of the shipped model, whose way of answering is known: it reads the value out of the context. So methods can be judged."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from llm_pipeline.curation.support.practice import practice
from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.cli_prompts import register as add_verbs
from llm_pipeline.evaluation.explain.attribution import Attribution, contrast, deletion, integrated_gradients, occlusion
from llm_pipeline.evaluation.explain.build import Asked, explain
from llm_pipeline.evaluation.explain.neighbours import Turn, nearest, read_turns
from llm_pipeline.evaluation.explain.page import render
from llm_pipeline.evaluation.explain.reading import Reader, Reading
from llm_pipeline.evaluation.explain.rollout import attention_rollout
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import FOLDER, load_prompt
from llm_pipeline.store import write_jsonl

MODEL = DATA / "models" / "tiny_base"
PROMPT = load_prompt(FOLDER / "answer.yaml")
CONTEXT = "Gold Account: the fee is $5. The limit is $900."
QUESTION = "What is the fee of the Gold Account?"


@dataclass(frozen=True)
class Solved:
    """A question that the model answered rightly, explained; `span` are the tokens of the answer's only place in the context."""

    reading: Reading
    span: list[int]
    gradients: Attribution
    occlusion: tuple[float, ...]

    @property
    def free(self) -> int:
        return self.reading.fixed.count(False)

    def mass(self, scores: Sequence[float]) -> float:
        """The span's share of all that spoke for the answer."""
        return sum(max(0.0, scores[i]) for i in self.span) / sum(max(0.0, score) for score in scores)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(MODEL, threads=1)


@pytest.fixture(scope="module")
def solved(reader: Reader) -> list[Solved]:
    found: list[Solved] = []
    for i in range(200):
        drawn = practice(random.Random(f"explain/{i}"), 0.1)
        question, answer = drawn.turns[0]
        messages = PROMPT.messages([{"role": "user", "content": question}], drawn.context)
        if (
            messages[-1]["content"].count(answer) != 1
            or len(messages[-1]["content"]) > 150
            or len(answer) > 6
            or reader.say(messages) != answer
        ):
            continue
        reading = reader.read(messages, answer)
        start = reading.text.index(answer)
        gradients = integrated_gradients(reader, reading, 64, tolerance=0.05)
        found.append(Solved(reading, reading.within(start, start + len(answer)), gradients, occlusion(reader, reading)))
        if len(found) == 3:
            break
    assert len(found) == 3
    return found


def test_what_was_read_is_where_the_answer_stands(solved: list[Solved]) -> None:
    """The answer's span gets several times the share that its length would get by chance, by either method."""
    chance = [len(one.span) / one.free for one in solved]
    for scores in ([one.gradients.scores for one in solved], [one.occlusion for one in solved]):
        masses = [one.mass(values) for one, values in zip(solved, scores, strict=True)]
        assert np.mean(masses) > 3 * np.mean(chance)
        assert all(mass > share for mass, share in zip(masses, chance, strict=True))


def test_the_scores_add_up(reader: Reader, solved: list[Solved]) -> None:
    for one in solved:
        found = one.gradients
        assert found.full > -1, "the model is sure of what it said"
        assert abs(found.delta) < 0.1 * (found.full - found.blank)
        assert np.sum(found.by_answer_token, axis=0) == pytest.approx(found.scores, abs=1e-4)
        assert {score for score, fixed in zip(found.scores, one.reading.fixed, strict=True) if fixed} == {0.0}
        assert any(one.reading.fixed)
    rough = integrated_gradients(reader, solved[0].reading, 2)
    assert rough.steps == 2 < solved[0].gradients.steps
    assert abs(rough.delta) > 2 * abs(solved[0].gradients.delta), "more steps miss less"


def test_without_the_top_tokens_the_answer_falls_further_than_without_random_ones(reader: Reader, solved: list[Solved]) -> None:
    for one in solved:
        for scores in (one.gradients.scores, one.occlusion):
            found = deletion(reader, one.reading, scores, repeats=8)
            assert found["top"] > 1.5 * found["random"] > 0
            assert found["tokens"] == round(0.15 * found["of"])
    assert deletion(reader, solved[0].reading, solved[0].occlusion) == deletion(reader, solved[0].reading, solved[0].occlusion)


def test_occlusion_is_a_plain_difference(reader: Reader, solved: list[Solved]) -> None:
    one = solved[0]
    row = [*one.reading.prompt, *one.reading.answer[:-1]]
    place = one.span[0]
    rows = torch.tensor([row, [*row[:place], reader.blank, *row[place + 1 :]]])
    with torch.inference_mode():
        before, after = reader.log_probabilities(rows, one.reading.answer).sum(1).tolist()
    assert one.occlusion[place] == pytest.approx(before - after, abs=1e-3)


def test_log_probabilities_are_those_of_the_evaluation(reader: Reader, solved: list[Solved]) -> None:
    from llm_pipeline.evaluation.generate import Generator

    messages = PROMPT.messages([{"role": "user", "content": QUESTION}], [CONTEXT])
    reading = reader.read(messages, "$5")
    [expected] = Generator(MODEL, threads=1).likelihoods([messages], ["$5"])
    with torch.inference_mode():
        found = reader.log_probabilities(torch.tensor([[*reading.prompt, *reading.answer[:-1]]]), reading.answer)
    assert found.shape == (1, expected.tokens)
    assert float(found.sum()) == pytest.approx(-expected.nll, abs=1e-3)


def test_a_contrast_names_what_decided_between_two_answers(reader: Reader) -> None:
    """Of two values in the context, the given one speaks for the answer and the other against it; "fee" in the question decides."""
    messages = PROMPT.messages([{"role": "user", "content": QUESTION}], [CONTEXT])
    this, that = (integrated_gradients(reader, reader.read(messages, answer), 32) for answer in ("$5", "$900"))
    found = contrast(this, that)
    assert found.full == pytest.approx(this.full - that.full)
    assert found.full > 5, "the model prefers what it said by far"
    assert abs(found.delta) < 0.05 * abs(found.full - found.blank)
    reading = reader.read(messages, "$5")
    place = reading.text.index("$900")
    assert sum(found.scores[i] for i in reading.within(place + 1, place + 4)) < 0
    assert max(range(len(found.scores)), key=lambda i: found.scores[i]) in reading.within(reading.text.index(" fee"), place)
    back = contrast(that, this)
    assert back.scores == pytest.approx([-score for score in found.scores])


def test_rollout_is_a_distribution_over_the_prompt(reader: Reader, solved: list[Solved]) -> None:
    shares = attention_rollout(reader, solved[0].reading)
    assert len(shares) == len(solved[0].reading.prompt)
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1)


def test_rollout_multiplies_mixed_layers(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers over three tokens, worked out by hand: each layer is half attention, half the token itself."""
    first = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    second = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    layers = [layer.expand(1, 2, 3, 3) for layer in (first, second)]
    monkeypatch.setattr(reader, "model", lambda **_: type("Output", (), {"attentions": layers}))
    reading = Reading("abc", (7, 8, 9), (5,), ((0, 1), (1, 2), (2, 3)), (False,) * 3, ("a", "b", "c"), ("d",))
    assert attention_rollout(reader, reading) == pytest.approx((0.0, 0.5, 0.5))


def embed(texts: Sequence[str]) -> Any:
    """Words of a small list as directions."""
    words = "fee gold limit hours card open $5 $900".split()
    found = np.array([[text.lower().count(word) for word in words] for text in texts], np.float32) + 1e-3
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_nearest_training_turns_are_those_on_the_same_thing(tmp_path: Path) -> None:
    rows = [
        {"id": "hours", "messages": [{"role": "user", "content": "Hours?"}, {"role": "assistant", "content": "Open at 9."}]},
        {
            "id": "fee",
            "messages": [
                {"role": "user", "content": "Gold card?"},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "Gold fee?"},
                {"role": "assistant", "content": "$5"},
            ],
        },
    ]
    path = tmp_path / "sft.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    turns = read_turns(path)
    assert [turn.row for turn in turns] == ["hours", "fee", "fee"]
    found = nearest(turns, QUESTION, "$5", embed)
    assert [(one.row, one.asked, one.holds_answer) for one in found] == [("fee", "Gold fee?", True), ("hours", "Hours?", False)]
    assert found[0].similarity > 0.9 > found[1].similarity
    assert len(nearest(turns, QUESTION, "$5", embed, number=1)) == 1
    path.write_text('{"id": "x", "text": "no messages"}\n', "utf-8")
    with pytest.raises(InputError, match=r"sft\.jsonl:1: expected the key messages"):
        read_turns(path)


def test_the_page_is_self_contained_and_escapes(reader: Reader) -> None:
    asked = Asked("What is <script>alert(1)</script>?", ("The <b>fee</b> is $5.",), "<i>$5</i>", "<u>", most_steps=2)
    turns = [Turn("<p>", "<em>asked</em>", "<s>said</s>")]
    found = explain(reader, PROMPT, asked, turns, embed)
    page = render(found)
    assert not re.findall(r"<script|<b>|<i>|<u>|<em>|<s>|<p>(?!Question)|(?:src|href)=|https?://", page)
    assert page.count('class="heat"') == 4 + len(found["answer_tokens"])
    assert (
        "".join(token["text"] for token in found["tokens"])
        == reader.read(PROMPT.messages([{"role": "user", "content": asked.question}], asked.context), "x").text
    )
    assert json.loads(json.dumps(found))["contrast"]["answer"] == "<u>"


def test_the_verb_explains(tmp_path: Path) -> None:
    """With the embedder that ships: of three training rows the one about the same fee is nearest."""
    app = typer.Typer()
    add_verbs(app)
    training = tmp_path / "sft.jsonl"
    said = {"hours": ("When do you open?", "At 9:00."), "fee": ("Fee of the Gold Account?", "$5"), "loan": ("May I get a loan?", "Yes.")}
    write_jsonl(
        training,
        [
            {"id": name, "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
            for name, (asked, answer) in said.items()
        ],
    )
    options = ["--model", str(MODEL), "--question", QUESTION, "--context", CONTEXT, "--most-steps", "4", "--out", str(tmp_path), "--json"]
    options += ["--training", str(training), "--home", str(tmp_path / "home")]
    found = json.loads(CliRunner().invoke(app, ["explain", *options], catch_exceptions=False).stdout)
    assert (found["answer"], found["prompt"]) == ("$5", PROMPT.id)
    assert found["neighbours"][0]["row"] == "fee"
    assert found["neighbours"][0]["holds_answer"]
    assert found == json.loads((tmp_path / "explanation.json").read_text("utf-8"))
    assert "$5" in (tmp_path / "explanation.html").read_text("utf-8")


def test_what_cannot_be_explained_is_refused(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        Reader(tmp_path)
    with pytest.raises(InputError, match="fit the model's window"):
        reader.say([{"role": "user", "content": "word " * 2_000}])
    with pytest.raises(InputError, match="the model's window is 1024"):
        reader.read([{"role": "user", "content": "Q"}], "word " * 2_000)
