"""Pairs of answers, one preferred to the other: what people said about logged answers, and mistakes made on purpose.

    feedback     a correction, or a liked and a disliked answer to the same question
    stale        the value that an older conversation about the same thing has
    wrong_value  another value of the same shape, one from the passages where there is one
    invention    a value where the passages (or the bank) have none
    refusal      a refusal where the passages hold the answer

Validation pairs come from validation rows, so they share no cluster and no question with the training pairs.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llm_pipeline.curation.feedback import feedback_pairs, pair_row
from llm_pipeline.curation.pairs import Library, Pair, fresh, pairs_of, question_key, subjects
from llm_pipeline.curation.sft import counts
from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.errors import InputError
from llm_pipeline.store import Artifact, Home, content_hash, write_jsonl

VERSION = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class PreferenceMix:
    """How many pairs are made of the tuning rows, and how often an answerable question is answered by a refusal."""

    rows: int = 1200
    refusal: float = 0.15


def build_preferences(
    home: Home, dataset: Artifact, snapshot: Artifact, interactions: Sequence[Row] = (), seed: int = 0, mix: PreferenceMix | None = None
) -> Artifact:
    """The `preference_dataset`: train and validation pairs, and the same as single answers for KTO in liked_*.jsonl.

    `interactions` are rows of the table of that name; those without feedback are passed over.
    """
    chosen = mix or PreferenceMix()
    feedback, unused = feedback_pairs(interactions)
    inputs = {
        "version": VERSION, "sft_dataset": dataset.id, "snapshot": snapshot.id, "seed": seed, "mix": vars(chosen),
        "feedback": content_hash(feedback),
    }  # fmt: skip

    def make(folder: Path) -> Mapping[str, Any]:
        mistakes = Mistakes(pq.read_table(snapshot.file("documents.parquet")).to_pylist(), seed, chosen)
        train, validation = (mistakes.pairs(dataset.jsonl(f"{part}.jsonl")) for part in ("train", "validation"))
        train = [*train[: chosen.rows], *_unheld(feedback, validation)]
        if not train:
            raise InputError(
                f"sft_dataset {dataset.id}: no row of it has a wrong answer to set against the right one, and there is no feedback"
            )
        for name, rows in (("train", train), ("validation", validation[: chosen.rows])):
            write_jsonl(folder / f"{name}.jsonl", rows)
            write_jsonl(folder / f"liked_{name}.jsonl", [single for row in rows for single in singles(row)])
        return {"sft_dataset": dataset.id, "train": counts(train), "validation": counts(validation), "feedback_unused": unused}

    return home.artifacts.build("preference_dataset", inputs, make)


def singles(row: Row) -> Iterator[Row]:
    """A pair as two rows of KTO: prompt, completion, label."""
    for name, label in (("chosen", True), ("rejected", False)):
        yield {"id": f"{row['id']}-{name}", "prompt": row["prompt"], "completion": row[name], "label": label, "kind": row["kind"]}


class Mistakes:
    """Plausible wrong answers out of the documents of a snapshot; the same seed and row give the same mistake."""

    def __init__(self, documents: Sequence[Row], seed: int, mix: PreferenceMix) -> None:
        self.seed, self.mix, self.library = seed, mix, Library(documents)
        every = [pair for row in documents if row["kind"] == "conversation" and row["messages"] for pair in pairs_of(row)]
        kept = fresh(every, self.library)
        newest = {question_key(pair.question): pair.answer for pair in kept}
        self._answered = [(_words(pair.question), pair.answer) for pair in kept if pair.answer != REFUSAL]
        self._stale: dict[str, list[Pair]] = defaultdict(list)
        for pair in every:
            if newest.get(question_key(pair.question)) != pair.answer and (named := subjects(pair.question)) and pair.answer != REFUSAL:
                self._stale[named[0]].append(pair)
        self._values = sorted({answer for _, answer in self._answered})

    def pairs(self, rows: Sequence[Row]) -> list[Row]:
        """One pair per row that has a wrong answer, in an order that depends on the seed alone."""
        found = [pair for row in rows if (pair := self._pair(row)) is not None]
        return sorted({row["id"]: row for row in found}.values(), key=lambda row: content_hash(self.seed, row["id"]))

    def _pair(self, row: Row) -> Row | None:
        r = random.Random(f"{self.seed}/preference/{row['id']}")
        prompt, right = row["messages"][:-1], row["messages"][-1]["content"]
        kind, wrong = self._wrong(prompt[-1]["content"], right, row["kind"], r)
        if wrong is None or wrong.strip() == right.strip():
            return None
        return pair_row(prompt, right, wrong, kind, row["id"], row["cluster_id"])

    def _wrong(self, asked: str, right: str, kind: str, r: random.Random) -> tuple[str, str | None]:
        question = asked.rsplit("Question: ", 1)[-1]
        if right == REFUSAL:
            return "invention", self._likely(question, r)
        if kind == "grounded" and r.random() < self.mix.refusal:
            return "refusal", REFUSAL
        if old := self._outdated(question, right):
            return "stale", r.choice(old)
        beside = sorted({value for value in self._values if value != right and value in asked and _alike(value, right)})
        return "wrong_value", r.choice(beside) if beside else self.library.another(right, r)

    def _outdated(self, question: str, right: str) -> list[str]:
        """Values that conversations about the same thing gave to a question in mostly the same words, and that are not right any more."""
        named = subjects(question)
        words = _words(question)
        pairs = self._stale.get(named[0], ()) if named else ()
        similar = [pair.answer for pair in pairs if 2 * len(words & _words(pair.question)) > len(words)]
        return sorted({answer for answer in similar if answer != right and _alike(answer, right)})

    def _likely(self, question: str, r: random.Random) -> str | None:
        """A value that somebody might expect: the answer to the question about another thing that shares most of its words."""
        words = _words(question)
        best = max((len(words & known) for known, _ in self._answered), default=0)
        likely = sorted({answer for known, answer in self._answered if len(words & known) == best})
        return r.choice(likely) if likely else None


def _words(question: str) -> frozenset[str]:
    """The words of a question without the thing that it is about."""
    for name in subjects(question):
        question = question.replace(name, " ")
    return frozenset(question_key(question).split())


def _alike(value: str, other: str) -> bool:
    """Whether two values look the same but for their digits."""
    return re.sub(r"\d+", "0", value) == re.sub(r"\d+", "0", other) or not (re.search(r"\d", value) or re.search(r"\d", other))


def _unheld(feedback: Sequence[Row], validation: Sequence[Row]) -> list[Row]:
    """Feedback on questions that no validation pair asks."""
    held = {question_key(row["prompt"][-1]["content"].rsplit("Question: ", 1)[-1]) for row in validation}
    return [row for row in feedback if question_key(row["prompt"][-1]["content"]) not in held]


def problems(rows: Sequence[Row]) -> list[str]:
    """Pairs that no trainer should see."""
    found = []
    for row in rows:
        if row["chosen"].strip() == row["rejected"].strip():
            found.append(f"{row['id']}: both answers are {row['chosen'][:40]!r}")
        elif not (row["chosen"].strip() and row["rejected"].strip() and all(m["content"].strip() for m in row["prompt"])):
            found.append(f"{row['id']}: an empty turn")
        elif row["prompt"][-1]["role"] != "user":
            found.append(f"{row['id']}: the prompt ends with a turn of {row['prompt'][-1]['role']}")
    return found


def leaks(train: Sequence[Row], validation: Sequence[Row]) -> list[str]:
    """Clusters and prompts that the two parts share and must not."""
    shared = {
        "clusters": {row["cluster_id"] for row in train} & {row["cluster_id"] for row in validation},
        "prompts": {json.dumps(row["prompt"]) for row in train} & {json.dumps(row["prompt"]) for row in validation},
    }
    return [f"{len(values)} shared {name} (first: {min(values)})" for name, values in shared.items() if values]
