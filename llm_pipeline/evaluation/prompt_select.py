"""Choosing a prompt and its examples by their answers: successive halving on validation questions, judged on held-out ones.

cases -> train (examples come from here) | validation (the choice) | test (what the choice is worth; nothing else sees it)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.generate import Generator
from llm_pipeline.evaluation.prompt_compare import Case, Row, ask, compare
from llm_pipeline.prompts import Example, Prompt
from llm_pipeline.store import content_hash

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Selection:
    """How much is tried."""

    shots: tuple[int, ...] = (2,)
    """Numbers of examples to try; each is filled in both ways, `nearest` and `greedy`."""
    pool: int = 5
    """How many training questions the greedy choice of examples may take from."""
    train: float = 0.3
    test: float = 0.35
    first_round: int = 16
    """Fewest questions that a candidate is judged by."""
    max_new_tokens: int = 40
    seed: int = 0


@dataclass(frozen=True)
class Splits:
    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


def split(cases: Sequence[Case], settings: Selection) -> Splits:
    """Three parts that share no question, the same whatever the order of the file; the training part has answers to show."""
    parts: dict[str, list[Case]] = {"train": [], "validation": [], "test": []}
    for case in sorted(cases, key=lambda case: content_hash(settings.seed, case.question, case.id)):
        place = int(content_hash(settings.seed, "split", case.question), 16) / 2**64
        parts["train" if place < settings.train else "test" if place < settings.train + settings.test else "validation"].append(case)
    if short := [name for name, part in parts.items() if len(part) < 4]:
        raise InputError(f"{len(cases)} questions leave {len(parts[short[0]])} for {short[0]}: expected at least 4 in each part")
    return Splits(*(tuple(part) for part in parts.values()))


def select(
    generator: Generator, prompts: Mapping[str, Prompt], cases: Sequence[Case], embed: Embed, settings: Selection, say: Say | None = None
) -> tuple[Prompt, dict[str, Any]]:
    """The best prompt and the report on how it was found; the first of `prompts` is what it is compared with."""
    parts = split(cases, settings)
    candidates = _candidates(generator, prompts, parts, embed, settings)
    ask_all = _Asker(generator, settings.max_new_tokens)
    chosen, rounds = _halve(ask_all, candidates, parts.validation, settings, say)
    baseline = next(iter(prompts))
    before, after = (ask_all(candidates[name], parts.test) for name in (baseline, chosen))
    validation = ask_all(candidates[chosen], parts.validation)
    report = {
        "splits": {name: len(part) for name, part in vars(parts).items()},
        "chosen": {"name": chosen, "id": candidates[chosen].id, "validation": _mean(validation, "em"), "test": _mean(after, "em")},
        "baseline": {"name": baseline, "id": candidates[baseline].id, "test": _mean(before, "em")},
        "held_out": compare(before, after),
        "rounds": rounds,
        "prompt": candidates[chosen].content,
    }
    return candidates[chosen], report


class _Asker:
    """Asks every candidate every question once, however many rounds it stays in."""

    def __init__(self, generator: Generator, max_new_tokens: int) -> None:
        self.generator, self.max_new_tokens = generator, max_new_tokens
        self._known: dict[tuple[str, str], Row] = {}

    def __call__(self, prompt: Prompt, cases: Sequence[Case]) -> list[Row]:
        if new := [case for case in cases if (prompt.id, case.id) not in self._known]:
            rows = ask(self.generator, prompt, new, max_new_tokens=self.max_new_tokens)
            self._known.update({(prompt.id, row["id"]): row for row in rows})
        return [self._known[prompt.id, case.id] for case in cases]


def _halve(
    ask_all: _Asker, candidates: Mapping[str, Prompt], cases: Sequence[Case], settings: Selection, say: Say | None
) -> tuple[str, list[dict[str, Any]]]:
    """Successive halving (Jamieson and Talwalkar 2016): the better half of the candidates goes on to twice the questions."""
    left, report = list(candidates), []
    number = max(1, math.ceil(math.log2(len(left))))
    for turn in range(number):
        last = turn == number - 1
        size = len(cases) if last else max(min(settings.first_round, len(cases)), len(cases) // 2 ** (number - 1 - turn))
        if say:
            say(f"round {turn + 1} of {number}: {len(left)} candidates, {size} questions")
        found = {name: ask_all(candidates[name], cases[:size]) for name in left}
        ranked = sorted(left, key=lambda name: _rank(found[name]))
        kept = ranked[: 1 if last else math.ceil(len(ranked) / 2)]
        figures = [
            {"name": name, "kept": name in kept} | {key: _mean(found[name], key) for key in ("em", "rouge_l", "prompt_tokens")}
            for name in ranked
        ]
        report.append({"questions": size, "candidates": figures})
        left = kept
    return left[0], report


def _rank(rows: Sequence[Row]) -> tuple[float, float, float]:
    """Lower is better: exact match, then ROUGE-L, then the shorter prompt; what is equal keeps its order."""
    return -_mean(rows, "em"), -_mean(rows, "rouge_l"), _mean(rows, "prompt_tokens")


def _mean(rows: Sequence[Row], key: str) -> float:
    return round(float(np.mean([row[key] for row in rows])), 4)


def _candidates(generator: Generator, prompts: Mapping[str, Prompt], parts: Splits, embed: Embed, settings: Selection) -> dict[str, Prompt]:
    """Every prompt as it is, and with examples of the training part; a prompt that shows its reasoning keeps its own."""
    found = dict(prompts)
    questions = [case.question for case in parts.train]
    similar = embed([case.question for case in parts.validation]) @ embed(questions).T
    for name, prompt in prompts.items():
        for shots in settings.shots if not prompt.reasoning else ():
            nearest = [_example(parts.train[i]) for i in cover(similar, shots)]
            pool = [_example(parts.train[i]) for i in cover(similar, max(shots, settings.pool))]
            greedy = _greedy(generator, prompt, pool, parts.validation[: settings.first_round], shots)
            found[f"{name} + {shots} nearest"] = replace(prompt, examples=tuple(nearest))
            found[f"{name} + {shots} greedy"] = replace(prompt, examples=tuple(greedy))
    return found


def cover(similar: NDArray[np.floating[Any]], number: int) -> list[int]:
    """Columns that together lie nearest to all rows: greedy facility location (Lin and Bilmes 2011), at least 0.63 of the optimum."""
    chosen: list[int] = []
    reached = np.full(similar.shape[0], -1.0)
    for _ in range(min(number, similar.shape[1])):
        gains = np.maximum(similar, reached[:, None]).sum(axis=0)
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
        reached = np.maximum(reached, similar[:, chosen[-1]])
    return chosen


def _greedy(generator: Generator, prompt: Prompt, pool: Sequence[Example], cases: Sequence[Case], number: int) -> list[Example]:
    """Forward selection: one example after the other, each the one that makes the expected answers most likely."""
    chosen: list[Example] = []
    for _ in range(min(number, len(pool))):
        left = [example for example in pool if example not in chosen]
        chosen.append(min(left, key=lambda example: _loss(generator, replace(prompt, examples=(*chosen, example)), cases)))
    return chosen


def _loss(generator: Generator, prompt: Prompt, cases: Sequence[Case]) -> float:
    conversations = [prompt.messages([{"role": "user", "content": case.question}], case.passages) for case in cases]
    return sum(item.nll for item in generator.likelihoods(conversations, [prompt.turns(_example(case))[1]["content"] for case in cases]))


def _example(case: Case) -> Example:
    return Example(case.question, case.answer, case.passages)


def as_yaml(prompt: Prompt, description: str) -> str:
    """A prompt file, as `load_prompt` reads it."""
    content = json.loads(json.dumps({"description": description, **prompt.content}))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140)
