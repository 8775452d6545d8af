"""Token attributions against what is known: the shipped model reads its answer out of the context, so that span should get the credit.

Fresh worlds that no training saw, questions that the model answers rightly, the answer standing once in the prompt. Ours beside the
usual choices: gradient times input, integrated gradients from padding, attention rollout, and chance. Both gradients take 64 steps.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.support.practice import practice
from llm_pipeline.evaluation.explain.attribution import deletion, integrated_gradients, occlusion
from llm_pipeline.evaluation.explain.reading import Reader, Reading
from llm_pipeline.evaluation.explain.rollout import attention_rollout
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import FOLDER, load_prompt

Method = Callable[[Reading], tuple[tuple[float, ...], float | None]]
"""Scores of the prompt's tokens, and the share of what they should add up to that they miss."""


def main(questions: int = 8, seed: int = 0) -> None:
    reader = Reader(DATA / "models" / "tiny_base", threads=1)
    solved = [found for found, _ in zip(_solved(reader, seed), range(questions), strict=False)]
    chance = np.mean([len(span) / reading.fixed.count(False) for reading, span in solved])
    table = Table(
        "method", "span's share", "top token in span", "fall without top 15%", "completeness missed", "CPU s",
        title=f"{questions} answers; the span is {chance:.1%} of the tokens",
    )  # fmt: skip
    for name, method in _methods(reader).items():
        figures: dict[str, list[float]] = defaultdict(list)
        for reading, span in solved:
            began = time.process_time()
            scores, missed = method(reading)
            figures["seconds"].append(time.process_time() - began)
            credit = np.maximum(scores, 0)
            figures["share"].append(credit[span].sum() / credit.sum())
            figures["top"].append(float(int(np.argmax(scores)) in span))
            fall = deletion(reader, reading, scores)
            figures["fall"].append(fall["top"])
            if missed is not None:
                figures["missed"].append(missed)
        missing = f"{np.mean(figures['missed']):.1%}" if figures["missed"] else "–"
        shown = (f"{np.mean(figures[key]):.{places}f}" for key, places in (("share", 2), ("top", 2), ("fall", 1)))
        table.add_row(name, *shown, missing, f"{np.mean(figures['seconds']):.2f}")
    Console().print(table)


def _methods(reader: Reader) -> dict[str, Method]:
    def gradients(reading: Reading, blank: int) -> Any:
        before, reader.blank = reader.blank, blank
        found = integrated_gradients(reader, reading, 64, tolerance=0)
        reader.blank = before
        return found.scores, abs(found.delta / (found.full - found.blank))

    return {
        "integrated gradients from line breaks (ours)": lambda reading: gradients(reading, reader.blank),
        "integrated gradients from padding": lambda reading: gradients(reading, reader.tokenizer.pad_token_id),
        "occlusion by line breaks (ours)": lambda reading: (occlusion(reader, reading), None),
        "gradient times input": lambda reading: (_gradient_times_input(reader, reading), None),
        "attention rollout": lambda reading: (_without_control(reading, attention_rollout(reader, reading)), None),
        "random scores": lambda reading: (_without_control(reading, tuple(np.random.default_rng(0).random(len(reading.prompt)))), None),
    }


def _gradient_times_input(reader: Reader, reading: Reading) -> tuple[float, ...]:
    import torch
    from captum.attr import LayerGradientXActivation  # type: ignore[import-untyped]

    rows = torch.tensor([[*reading.prompt, *reading.answer[:-1]]])
    method = LayerGradientXActivation(lambda ids: reader.log_probabilities(ids, reading.answer).sum(1), reader.model.get_input_embeddings())
    return _without_control(reading, tuple(method.attribute(rows).sum(-1)[0].tolist()))


def _without_control(reading: Reading, scores: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(0.0 if fixed else score for score, fixed in zip(scores, reading.fixed, strict=False))


def _solved(reader: Reader, seed: int) -> Iterator[tuple[Reading, list[int]]]:
    prompt, number = load_prompt(FOLDER / "answer.yaml"), 0
    while True:
        drawn = practice(random.Random(f"bench/{seed}/{number}"), 0.3)
        number += 1
        question, answer = drawn.turns[0]
        messages = prompt.messages([{"role": "user", "content": question}], drawn.context)
        if messages[-1]["content"].count(answer) == 1 and len(messages[-1]["content"]) < 400 and reader.say(messages) == answer:
            reading = reader.read(messages, answer)
            start = reading.text.index(answer)
            yield reading, reading.within(start, start + len(answer))


if __name__ == "__main__":
    typer.run(main)
