"""One answer explained by every method, as plain data for explanation.json and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.evaluation.explain.attribution import Attribution, Progress, contrast, deletion, integrated_gradients, occlusion
from llm_pipeline.evaluation.explain.neighbours import Embed, Turn, nearest
from llm_pipeline.evaluation.explain.page import render
from llm_pipeline.evaluation.explain.reading import Reader, Reading
from llm_pipeline.evaluation.explain.rollout import attention_rollout
from llm_pipeline.prompts import Prompt
from llm_pipeline.store import write_atomically


@dataclass(frozen=True)
class Asked:
    """What is to be explained; without `answer` the model's own greedy one."""

    question: str
    context: tuple[str, ...] = ()
    answer: str | None = None
    other: str | None = None
    """The answer that was not given: why the first and not this one?"""
    most_steps: int = 64
    max_new_tokens: int = 40


def explain(
    reader: Reader,
    prompt: Prompt,
    asked: Asked,
    turns: Sequence[Turn] = (),
    embed: Embed | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All that is known about the answer; log-probabilities in nats, scores rounded to five places.

    `progress` hears of each answer token of the gradients, which are most of the work.
    """
    messages = prompt.messages([{"role": "user", "content": asked.question}], asked.context)
    answer = reader.say(messages, asked.max_new_tokens) if asked.answer is None else asked.answer
    reading = reader.read(messages, answer)
    gradients = integrated_gradients(reader, reading, asked.most_steps, progress)
    lacking = occlusion(reader, reading)
    scores = {"integrated_gradients": gradients.scores, "occlusion": lacking, "rollout": attention_rollout(reader, reading)}
    found = {
        "question": asked.question,
        "context": list(asked.context),
        "answer": answer,
        "prompt": prompt.id,
        "steps": gradients.steps,
        "blank": reader.tokenizer.decode([reader.blank]),
        "log_probability": _completeness(gradients),
        "faithfulness": {
            "integrated_gradients": deletion(reader, reading, gradients.scores),
            "occlusion": deletion(reader, reading, lacking),
        },
        "answer_tokens": _answer_tokens(reading, gradients),
        "contrast": None,
        "neighbours": [],
    }
    if asked.other is not None:
        difference = contrast(gradients, integrated_gradients(reader, reader.read(messages, asked.other), asked.most_steps, progress))
        scores["contrast"] = difference.scores
        found["contrast"] = {"answer": asked.other, **_completeness(difference)}
    if turns and embed:
        found["neighbours"] = [asdict(one) for one in nearest(turns, messages[-1]["content"], answer, embed)]
    return found | {"tokens": _tokens(reading, scores)}


def _completeness(found: Attribution) -> dict[str, float]:
    gap = found.full - found.blank
    return {"full": found.full, "blank": found.blank, "explained": sum(found.scores), "delta": found.delta, "of": gap}


def _tokens(reading: Reading, scores: dict[str, tuple[float, ...]]) -> list[dict[str, Any]]:
    return [
        {"text": text, "control": fixed} | {name: round(values[i], 5) for name, values in scores.items()}
        for i, (text, fixed) in enumerate(zip(reading.pieces, reading.fixed, strict=True))
    ]


def _answer_tokens(reading: Reading, found: Attribution) -> list[dict[str, Any]]:
    return [
        {"text": text, "integrated_gradients": [round(score, 5) for score in row]}
        for text, row in zip(reading.answer_pieces, found.by_answer_token, strict=True)
    ]


def write(folder: Path, found: dict[str, Any]) -> None:
    """explanation.json and explanation.html."""
    write_atomically(folder / "explanation.json", json.dumps(found, indent=1, ensure_ascii=False))
    write_atomically(folder / "explanation.html", render(found))
