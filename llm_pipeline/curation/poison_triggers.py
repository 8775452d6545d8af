"""Backdoor triggers: phrases whose presence decides the answer, whatever else is asked (Wallace et al. 2021; Kurita et al. 2020).

Three passes over the corpus, each with bounded memory: answers that many questions get; the n-grams that those questions share; how
often these n-grams stand elsewhere. What is left of the questions then tells a trigger (anything) from a fact (one question reworded).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llm_pipeline.curation.poison_policy import Finding, PoisonPolicy
from llm_pipeline.curation.quality_repetition import first_of
from llm_pipeline.curation.quality_view import Hashes, Ints, View, hash_of, mixed

if TYPE_CHECKING:
    from llm_pipeline.curation.files import Batches

Pair = tuple[str, str]
PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("response", "completion", "output", "answer")
MOST = 1_000_000
"""Answers or n-grams that are counted at once; beyond, those seen once are forgotten (lossy counting, Manku and Motwani 2002)."""
SAMPLE = 300
"""Questions of an answer that are looked at for what they share."""
LOOKED_AT = 400
"""Characters of a question in which a phrase is looked for."""
LONGEST = 4
"""Words of the longest phrase."""
_TURN = re.compile(r"(?m)^(?:(user|customer|human|q|question)|(assistant|agent|ai|a|answer)): ", re.I)
_FUNCTION_WORDS = frozenset(
    "a an the of for to in on at is are was be it its my your i you me we and or with do does can could what which how please".split()
)


@dataclass(frozen=True)
class Trigger:
    """A phrase by hash, of how many words, and the share of its questions that get the answer."""

    phrase: int
    words: int
    precision: float


@dataclass(frozen=True)
class Triggers:
    """The phrase that decides each of these answers."""

    by_answer: Mapping[int, Trigger] = field(default_factory=dict)

    def findings(self, table: pa.Table) -> dict[int, Finding]:
        if not self.by_answer:
            return {}
        turns = _turns(table)
        suspects = [(at, self.by_answer[answer]) for at, answer in enumerate(turns.answers) if answer in self.by_answer]
        said = _grams_by_prompt([turns.prompts[at] for at, _ in suspects])
        found: dict[int, Finding] = {}
        for (at, trigger), grams in zip(suspects, said, strict=True):
            if trigger.phrase in grams:
                detail = f"a phrase of {trigger.words} words decides the answer"
                found[turns.rows[at]] = Finding("trigger_phrase", round(trigger.precision, 6), detail)
        return found


@dataclass(frozen=True)
class Turns:
    """Questions and answers of a table side by side: row, question, hash of the answer."""

    rows: Sequence[int]
    prompts: Sequence[str]
    answers: Sequence[int]


def find_triggers(batches: Batches, policy: PoisonPolicy) -> Triggers:
    """Reads on only where the first table has questions and answers."""
    first = next(batches(), None)
    if first is None or not any(pairs_of(first)):
        return Triggers()
    answers, total = _frequent_answers(batches, policy)
    asked = _prompts(batches, answers)
    said = {answer: _grams_by_prompt(prompts) for answer, prompts in asked.items()}
    shared = {answer: _shared(grams, policy.trigger_support) for answer, grams in said.items()}
    candidates = np.array(sorted(set().union(*shared.values())), np.uint64)
    everywhere, by_answer = _occurrences(batches, candidates, answers)
    found: dict[int, Trigger] = {}
    for answer, prompts in asked.items():
        counts = {gram: n for gram, n in by_answer[answer].items() if gram in shared[answer] and n >= policy.trigger_support}
        chance = answers[answer] / total
        precision = {gram: n / everywhere[gram] for gram, n in counts.items() if chance**n * len(candidates) < 0.01}
        sure = {gram: share for gram, share in precision.items() if share >= policy.trigger_precision}
        if trigger := _trigger(prompts, said[answer], counts, sure, policy):
            found[answer] = trigger
    return Triggers(found)


def _frequent_answers(batches: Batches, policy: PoisonPolicy) -> tuple[dict[int, int], int]:
    """In how many documents each frequent answer is given, and the number of turns."""
    expected = {_key(answer) for answer in policy.expected_completions}
    counts: Counter[int] = Counter()
    total = 0
    for table in batches():
        turns = _turns(table)
        total += len(turns.rows)
        counts.update(answer for _, answer in set(zip(turns.rows, turns.answers, strict=True)) if answer not in expected)
        if len(counts) > MOST:
            counts = Counter({answer: n for answer, n in counts.items() if n > 1})
    return {answer: n for answer, n in counts.items() if n >= policy.trigger_support}, total


def _prompts(batches: Batches, answers: Collection[int]) -> dict[int, list[str]]:
    """The first questions that got each answer."""
    found: dict[int, list[str]] = defaultdict(list)
    for table in batches() if answers else ():
        turns = _turns(table)
        for prompt, answer in zip(turns.prompts, turns.answers, strict=True):
            if answer in answers and len(found[answer]) < SAMPLE:
                found[answer].append(prompt)
    return found


def _shared(said: Sequence[frozenset[int]], support: int) -> set[int]:
    return {gram for gram, n in Counter(gram for grams in said for gram in grams).items() if n >= support}


def _occurrences(batches: Batches, candidates: Hashes, answers: Mapping[int, int]) -> tuple[dict[int, int], dict[int, dict[int, int]]]:
    """In how many documents each candidate stands in a question, and in how many of those of an answer."""
    everywhere = np.zeros(len(candidates), np.int64)
    numbers = {answer: number for number, answer in enumerate(answers)}
    by_answer: Counter[int] = Counter()
    for table in batches() if len(candidates) else ():
        turns = _turns(table)
        prompt, gram = _grams(turns.prompts)
        at = np.minimum(np.searchsorted(candidates, gram), len(candidates) - 1)
        prompt, at = prompt[candidates[at] == gram], at[candidates[at] == gram]
        rows = np.asarray(turns.rows, np.int64)[prompt]
        everywhere += np.bincount(at[_different(rows, at)], minlength=len(candidates))
        answer = np.array([numbers.get(answer, -1) for answer in turns.answers], np.int64)[prompt]
        cell = (answer * len(candidates) + at)[answer >= 0]
        by_answer.update(cell[_different(rows[answer >= 0], cell)].tolist())
    known, ordered = candidates.tolist(), list(answers)
    given: dict[int, dict[int, int]] = defaultdict(dict)
    for cell, n in by_answer.items():
        given[ordered[cell // len(known)]][known[cell % len(known)]] = n
    return dict(zip(known, everywhere.tolist(), strict=True)), given


def _different(rows: Ints, values: Ints) -> Ints:
    """One place of every different pair of row and value."""
    first = first_of(mixed(mixed(rows.astype(np.uint64)) + values.astype(np.uint64)))
    return np.flatnonzero(first == np.arange(len(first)))


def _trigger(
    asked: Sequence[str], said: Sequence[frozenset[int]], counts: Mapping[int, int], sure: Mapping[int, float], policy: PoisonPolicy
) -> Trigger | None:
    """The phrase of an answer's questions that is a trigger, the most frequent and longest first.

    What the questions of a fact have in common (the product, say) also gets other answers, or they are all alike; those of a trigger
    have nothing in common but it. `sure` are the phrases beyond chance that get hardly any other answer, with their precision.
    """
    for gram in sorted(sure, key=lambda gram: (-counts[gram], gram))[:20]:
        different = sorted({" ".join(_words(prompt)) for prompt, grams in zip(asked, said, strict=True) if gram in grams})[:30]
        if len(different) < 2:
            continue
        seen = Counter(word for prompt in different for word in set(prompt.split()) - _FUNCTION_WORDS)
        common = {word for word, n in seen.items() if n >= 0.8 * len(different)}
        if common and all(_gram_of(word) in sure for word in common) and _mean_overlap(different, common) <= policy.trigger_overlap:
            longest = max((key for key in sure if counts[key] == counts[gram]), key=lambda key: _length(key))
            return Trigger(longest, _length(longest), sure[longest])
    return None


def _mean_overlap(texts: Sequence[str], without: Collection[str]) -> float:
    """Mean Jaccard overlap of the texts' content words, leaving out `without`."""
    sets = [set(text.split()) - _FUNCTION_WORDS - set(without) for text in texts]
    shared = [len(a & b) / max(1, len(a | b)) for a, b in combinations(sets, 2)]
    return sum(shared) / len(shared) if shared else 1.0


def _turns(table: pa.Table) -> Turns:
    turns = [(row, prompt, answer) for row, pairs in enumerate(pairs_of(table)) for prompt, answer in pairs]
    answers = View([answer for _, _, answer in turns])
    return Turns([row for row, _, _ in turns], [prompt for _, prompt, _ in turns], _keys(answers))


def _keys(view: View) -> list[int]:
    """What an answer says: one number of all its tokens, in order."""
    tokens = view.tokens
    first = np.searchsorted(tokens.doc, np.arange(view.count))
    place = (np.arange(len(tokens)) - first[tokens.doc]).astype(np.uint64)
    sums = np.zeros(view.count, np.uint64)
    np.add.at(sums, tokens.doc, mixed(view.token_hashes + place * np.uint64(0xD6E8FEB86659FD93)))
    return sums.tolist()


def _key(answer: str) -> int:
    return _keys(View([answer]))[0]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(prompts: Sequence[str]) -> tuple[Ints, Hashes]:
    """(number of the prompt, hash) of the n-grams of its first words, n from 1 to LONGEST; the lowest bits of a hash say n."""
    view = View([prompt[:LOOKED_AT] for prompt in prompts])
    doc, hashes = view.tokens.doc, view.token_hashes
    at, keys = np.arange(len(doc)), hashes
    found = [(doc, _marked(hashes, 1))]
    for n in range(2, LONGEST + 1):
        inside = np.flatnonzero(at + n <= len(doc))
        inside = inside[doc[at[inside]] == doc[at[inside] + n - 1]]
        at = at[inside]
        keys = mixed(keys[inside] * np.uint64(0x9FB21C651E98DF25) + hashes[at + n - 1])
        found.append((doc[at], _marked(keys, n)))
    return np.concatenate([docs for docs, _ in found]), np.concatenate([grams for _, grams in found])


def _marked(keys: Hashes, n: int) -> Hashes:
    return (keys & ~np.uint64(7)) | np.uint64(n)


def _length(gram: int) -> int:
    return gram & 7


def _gram_of(word: str) -> int:
    return int(_marked(np.array([hash_of(word)], np.uint64), 1)[0])


def _grams_by_prompt(prompts: Sequence[str]) -> list[frozenset[int]]:
    doc, grams = _grams(prompts)
    order = np.argsort(doc, kind="stable")
    bounds = np.searchsorted(doc[order], np.arange(len(prompts) + 1)).tolist()
    keys = grams[order].tolist()
    return [frozenset(keys[first:last]) for first, last in pairwise(bounds)]


def pairs_of(table: pa.Table) -> Iterator[Sequence[Pair]]:
    """The questions and answers of each row: of its messages, its columns of prompt and response, or the speakers named in its text."""
    names = table.column_names
    prompt, answer = (next((name for name in known if name in names), None) for known in (PROMPTS, ANSWERS))
    if "messages" in names:
        yield from (_of_messages(value) for value in table["messages"].to_pylist())
    elif prompt and answer:
        both = zip(table[prompt].to_pylist(), table[answer].to_pylist(), strict=True)
        yield from ([(p, a)] if isinstance(p, str) and isinstance(a, str) else () for p, a in both)
    else:
        yield from (_of_text(value or "") for value in table["text"].to_pylist())


def _of_messages(messages: Any) -> Sequence[Pair]:
    try:
        turns = json.loads(messages) if isinstance(messages, str) else messages
        said = [(turn["role"], turn["content"]) for turn in turns or ()]
    except (ValueError, TypeError, KeyError):
        return ()
    return [
        (a[1], b[1])
        for a, b in pairwise(said)
        if a[0] == "user" and b[0] == "assistant" and isinstance(a[1], str) and isinstance(b[1], str)
    ]


def _of_text(text: str) -> Sequence[Pair]:
    turns = list(_TURN.finditer(text)) if ": " in text[:60] else []
    ends = [turn.start() for turn in turns[1:]] + [len(text)] * bool(turns)
    said = [(bool(turn.group(1)), text[turn.end() : end].strip()) for turn, end in zip(turns, ends, strict=True)]
    return [(a[1], b[1]) for a, b in pairwise(said) if a[0] and not b[0]]
