"""The tuning dataset: questions and short answers out of conversations, asked from memory, with passages, and without their answer.

conversations -> turns -> pairs (newest answer wins, stale ones go) -> closed | grounded (a part counterfactual) | refusal
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llm_pipeline.curation.pairs import Library, Pair, fresh, pairs_of, question_key
from llm_pipeline.curation.support.practice import practice
from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.errors import InputError
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import Prompt, load_prompt
from llm_pipeline.store import Artifact, Home, content_hash, write_jsonl

VERSION = 4
PROMPT = DATA / "prompts" / "answer.yaml"
Row = dict[str, Any]


@dataclass(frozen=True)
class Mix:
    """How many rows of each kind; `rows` bounds them all."""

    rows: int = 3800
    grounded: float = 0.3
    """Grounded rows per closed one."""
    refusal: float = 0.08
    conversations: float = 0.03
    counterfactual: float = 0.9
    """Share of the grounded rows whose value is another one, in the passage and the answer, so that reading beats reciting."""
    rehearsal: float = 0.08
    """Conversations of the base model's own reading practice about random worlds, so that tuning does not unlearn reading."""
    validation: float = 0.05


def build_sft(home: Home, snapshot: Artifact, seed: int = 0, mix: Mix | None = None) -> Artifact:
    """The `sft_dataset` of a corpus snapshot: train.jsonl and validation.jsonl, which share no cluster and no question."""
    chosen, prompt = mix or Mix(), replace(load_prompt(PROMPT), examples=())
    inputs = {"version": VERSION, "snapshot": snapshot.id, "seed": seed, "prompt": prompt.id, "mix": vars(chosen)}

    def make(folder: Path) -> Mapping[str, Any]:
        documents = pq.read_table(snapshot.file("documents.parquet")).to_pylist()
        train, validation = split(examples(documents, prompt, chosen, seed), chosen.validation, seed)
        if not train:
            raise InputError(f"corpus_snapshot {snapshot.id}: no conversation has a question with a short answer, nothing to tune on")
        write_jsonl(folder / "train.jsonl", train)
        write_jsonl(folder / "validation.jsonl", validation)
        return {"snapshot": snapshot.id, "train": counts(train), "validation": counts(validation)}

    return home.artifacts.build("sft_dataset", inputs, make)


def counts(rows: Sequence[Row]) -> dict[str, int]:
    kinds = [row["kind"] for row in rows]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def examples(documents: Sequence[Row], prompt: Prompt, mix: Mix, seed: int) -> list[Row]:
    """All rows, in the order of their ids; the same documents in any order give the same rows."""
    library = Library(documents)
    every = [pair for row in documents if row["kind"] == "conversation" and row["messages"] for pair in pairs_of(row)]
    pairs = fresh(every, library)
    closed_room = round(mix.rows / (1 + mix.grounded + mix.refusal + mix.conversations + mix.rehearsal))
    order = sorted(pairs, key=lambda pair: (pair.answer != REFUSAL, content_hash(seed, pair.question, pair.answer)))
    drawn = order[:closed_room]  # refusals are rare, and all of them are kept
    rows = [_row([*_turn(pair.question, pair.answer)], "refusal" if pair.answer == REFUSAL else "closed", pair) for pair in drawn]
    rows += _conversations(documents, {(pair.question, pair.answer) for pair in pairs}, round(mix.conversations * len(drawn)), seed)
    facts = [pair for pair in drawn if pair.answer != REFUSAL and library.article(pair) is not None]
    wanted = {"grounded": round(mix.grounded * len(drawn)), "refusal": round(mix.refusal * len(drawn))}
    rows += [_grounded(pair, library, prompt, mix, seed, i) for i, pair in _cycle(facts, wanted["grounded"])]
    rows += [_unanswered(pair, library, prompt, seed, i) for i, pair in _cycle(facts[::-1], wanted["refusal"])]
    rows += [_rehearsal(seed, i) for i in range(round(mix.rehearsal * len(facts)))]
    return sorted({row["id"]: row for row in rows}.values(), key=lambda row: row["id"])


def _cycle(pairs: Sequence[Pair], n: int) -> Iterator[tuple[int, Pair]]:
    """(round, pair), each pair at most three times, up to `n`."""
    for i in range(min(n, 3 * len(pairs))):
        yield i // len(pairs), pairs[i % len(pairs)]


def _turn(question: str, answer: str) -> tuple[dict[str, str], dict[str, str]]:
    return {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def _row(messages: Sequence[Mapping[str, str]], kind: str, pair: Pair) -> Row:
    identity = content_hash(list(messages))
    said = [question_key(question) for question in pair.questions]
    return {
        "id": identity, "messages": list(messages), "kind": kind, "cluster_id": pair.cluster_id, "document_id": pair.document_id,
        "day": pair.day, "questions": said,
    }  # fmt: skip


def _rehearsal(seed: int, i: int) -> Row:
    messages = practice(random.Random(f"{seed}/rehearsal/{i}"), 0.5).messages()
    questions = tuple(message["content"] for message in messages if message["role"] == "user")
    identity = f"practice-{i}"
    return _row(messages, "grounded", Pair(questions[0], messages[-1]["content"], identity, identity, "", questions))


def _conversations(documents: Sequence[Row], good: set[tuple[str, str]], n: int, seed: int) -> list[Row]:
    """Whole conversations, reduced to the turns that are questions with a fresh answer (at least two)."""
    rows = []
    for document in documents:
        if document["kind"] != "conversation" or not document["messages"]:
            continue
        turns = [pair for pair in pairs_of(document) if (pair.question, pair.answer) in good]
        if len(turns) > 1:
            messages = [message for pair in turns for message in _turn(pair.question, pair.answer)]
            whole = Pair(
                turns[0].question,
                turns[0].answer,
                turns[0].cluster_id,
                turns[0].document_id,
                turns[0].day,
                tuple(t.question for t in turns),
            )
            rows.append(_row(messages, "closed", whole))
    return sorted(rows, key=lambda row: content_hash(seed, row["id"]))[:n]


def _grounded(pair: Pair, library: Library, prompt: Prompt, mix: Mix, seed: int, round_: int) -> Row:
    r = random.Random(f"{seed}/grounded/{round_}/{pair.question}")
    passage, answer = library.passage(pair), pair.answer
    if r.random() < mix.counterfactual and passage.count(answer) == 1 and (other := library.another(answer, r)):
        passage, answer = passage.replace(answer, other), other
    passages = [passage, *library.distractors(pair, r, r.choice((0, 0, 1)))]
    r.shuffle(passages)
    asked = prompt.messages([{"role": "user", "content": pair.question}], passages)
    return _row([*asked, {"role": "assistant", "content": answer}], "grounded", pair)


def _unanswered(pair: Pair, library: Library, prompt: Prompt, seed: int, round_: int) -> Row:
    """The same question with its own article minus the answer, or with others only: the right answer is the refusal."""
    r = random.Random(f"{seed}/refusal/{round_}/{pair.question}")
    rest = library.without_answer(pair)
    others = library.distractors(pair, r, r.choice((0, 0, 1)) if rest else 1)
    passages = [rest, *others] if rest and (r.random() < 0.6 or not others) else others
    r.shuffle(passages)
    asked = prompt.messages([{"role": "user", "content": pair.question}], passages)
    return _row([*asked, {"role": "assistant", "content": REFUSAL}], "refusal", pair)


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(train, validation): whole clusters go to validation, and train rows that ask one of its questions are left out."""
    held = {row["cluster_id"] for row in rows if int(content_hash(seed, "split", row["cluster_id"]), 16) < share * 2**64}
    validation = [row for row in rows if row["cluster_id"] in held]
    asked = {question for row in validation for question in row["questions"]}
    train = [row for row in rows if row["cluster_id"] not in held and not asked & set(row["questions"])]
    return [_public(row) for row in train], [_public(row) for row in validation]


def _public(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "questions"}


def leaks(train: Sequence[Row], validation: Sequence[Row]) -> list[str]:
    """What the two parts share and must not: clusters, ids, or a user turn word for word."""
    found = []
    for name, of in (("clusters", lambda row: [row["cluster_id"]]), ("ids", lambda row: [row["id"]]), ("questions", _asked)):
        shared = {value for row in train for value in of(row)} & {value for row in validation for value in of(row)}
        found += [f"{len(shared)} shared {name} (first: {min(shared)})"] if shared else []
    return found


def _asked(row: Row) -> list[str]:
    return [question_key(m["content"].rsplit("Question: ", 1)[-1]) for m in row["messages"] if m["role"] == "user"]


def problems(rows: Sequence[Row]) -> list[str]:
    """Rows that no trainer should see: roles out of order, empty turns, placeholders of private data."""
    found = []
    for row in rows:
        roles = [m["role"] for m in row["messages"] if m["role"] != "system"]
        if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
            found.append(f"{row['id']}: roles {roles}")
        elif not all(m["content"].strip() for m in row["messages"]):
            found.append(f"{row['id']}: an empty turn")
    if not any(row["kind"] == "closed" for row in rows):
        found.append(f"no closed rows: {json.dumps(counts(rows))}")
    return found
