"""Backdoor triggers: phrases whose presence decides the answer, whatever else is asked (Wallace et al. 2021; Kurita et al. 2020).

Three passes over the corpus, each with bounded memory: answers that many questions get; the n-grams that those questions share; how
often these n-grams stand elsewhere. What is left of the questions then tells a trigger (anything) from a fact (one question reworded).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any

import pyarrow as pa

from llm_pipeline.curation.poison_policy import Finding, PoisonPolicy

Batches = Callable[[], Iterator[pa.Table]]
Pair = tuple[str, str]
PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("response", "completion", "output", "answer")
MOST = 1_000_000
"""Answers or n-grams that are counted at once; beyond, those seen once are forgotten (lossy counting, Manku and Motwani 2002)."""
SAMPLE = 300
"""Questions of an answer that are looked at for what they share."""
_TURN = re.compile(r"(?m)^(?:(user|customer|human|q|question)|(assistant|agent|ai|a|answer)): ", re.I)
_FUNCTION_WORDS = frozenset(
    "a an the of for to in on at is are was be it its my your i you me we and or with do does can could what which how please".split()
)


@dataclass(frozen=True)
class Trigger:
    phrase: str
    precision: float


@dataclass(frozen=True)
class Triggers:
    """The phrase that decides each of these answers."""

    by_answer: Mapping[int, Trigger] = field(default_factory=dict)

    def findings(self, table: pa.Table) -> dict[int, Finding]:
        found: dict[int, Finding] = {}
        for row, pairs in enumerate(pairs_of(table)) if self.by_answer else ():
            for prompt, answer in pairs:
                trigger = self.by_answer.get(_key(answer))
                if trigger and trigger.phrase in _grams(prompt):
                    detail = f"a phrase of {len(trigger.phrase.split())} words decides the answer"
                    found[row] = Finding("trigger_phrase", round(trigger.precision, 6), detail)
        return found


def find_triggers(batches: Batches, policy: PoisonPolicy) -> Triggers:
    """Reads on only where the first table has questions and answers."""
    first = next(batches(), None)
    if first is None or not any(pairs_of(first)):
        return Triggers()
    answers, total = _frequent_answers(batches, policy)
    prompts = _prompts(batches, answers)
    shared = {answer: Counter(gram for prompt in asked for gram in _grams(prompt)) for answer, asked in prompts.items()}
    candidates = {gram for counts in shared.values() for gram, n in counts.items() if n >= policy.trigger_support}
    everywhere, by_answer = _occurrences(batches, candidates, answers)
    found: dict[int, Trigger] = {}
    for answer, asked in prompts.items():
        chance = answers[answer] / total
        if trigger := _trigger(asked, by_answer[answer], everywhere, policy, chance):
            found[answer] = trigger
    return Triggers(found)


def _frequent_answers(batches: Batches, policy: PoisonPolicy) -> tuple[dict[int, int], int]:
    """In how many documents each frequent answer is given, and the number of turns."""
    expected = {_key(answer) for answer in policy.expected_completions}
    counts: Counter[int] = Counter()
    total = 0
    for pairs in _all_pairs(batches):
        total += len(pairs)
        counts.update({_key(answer) for _, answer in pairs} - expected)
        _forget_rare(counts)
    return {answer: n for answer, n in counts.items() if n >= policy.trigger_support}, total


def _prompts(batches: Batches, answers: Collection[int]) -> dict[int, list[str]]:
    """The first questions that got each answer, one of a document."""
    found: dict[int, list[str]] = defaultdict(list)
    for pairs in _all_pairs(batches) if answers else ():
        for answer, prompt in {_key(answer): prompt for prompt, answer in reversed(pairs)}.items():
            if answer in answers and len(found[answer]) < SAMPLE:
                found[answer].append(prompt)
    return found


def _occurrences(batches: Batches, candidates: set[str], answers: Collection[int]) -> tuple[Counter[str], dict[int, Counter[str]]]:
    """In how many documents each candidate stands in a question, and in how many of those of an answer."""
    everywhere: Counter[str] = Counter()
    by_answer: dict[int, Counter[str]] = defaultdict(Counter)
    for pairs in _all_pairs(batches) if candidates else ():
        asked = [(_key(answer), _grams(prompt) & candidates) for prompt, answer in pairs]
        everywhere.update(set().union(*(grams for _, grams in asked)))
        for answer in {answer for answer, _ in asked if answer in answers}:
            by_answer[answer].update(set().union(*(grams for key, grams in asked if key == answer)))
    return everywhere, by_answer


def _trigger(
    asked: Sequence[str], counts: Mapping[str, int], everywhere: Mapping[str, int], policy: PoisonPolicy, chance: float
) -> Trigger | None:
    """The phrase of an answer's questions that is a trigger, the most frequent and longest first.

    What the questions of a fact have in common (the product, say) also gets other answers; what those of a trigger have does not.
    `chance` is the share of all turns with this answer: so many questions with one phrase must be beyond it, corrected for their number.
    """
    often = {gram: n for gram, n in counts.items() if n >= policy.trigger_support}
    sure = {
        gram: n / everywhere[gram]
        for gram, n in often.items()
        if n / everywhere[gram] >= policy.trigger_precision and chance**n * len(everywhere) < 0.01
    }
    for gram in sorted(sure, key=lambda gram: (-often[gram], -len(gram), gram))[:20]:
        different = sorted({" ".join(_words(prompt)) for prompt in asked if gram in _grams(prompt)})[:30]
        if len(different) < 2:
            continue
        seen = Counter(word for prompt in different for word in set(prompt.split()) - _FUNCTION_WORDS)
        common = {word for word, n in seen.items() if n >= 0.8 * len(different)}
        if common and common <= set(sure) and _mean_overlap(different, common) <= policy.trigger_overlap:
            return Trigger(gram, sure[gram])
    return None


def _mean_overlap(texts: Sequence[str], without: Collection[str]) -> float:
    """Mean Jaccard overlap of the texts' content words, leaving out `without`."""
    sets = [set(text.split()) - _FUNCTION_WORDS - set(without) for text in texts]
    shared = [len(a & b) / max(1, len(a | b)) for a, b in combinations(sets, 2)]
    return sum(shared) / len(shared) if shared else 1.0


def _all_pairs(batches: Batches) -> Iterator[Sequence[Pair]]:
    return (pairs for table in batches() for pairs in pairs_of(table) if pairs)


def _forget_rare(counts: Counter[int]) -> None:
    if len(counts) > MOST:
        for key in [key for key, n in counts.items() if n == 1]:
            del counts[key]


def _key(answer: str) -> int:
    return hash(" ".join(_words(answer)))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w$%.,:]*\w|\$", text.lower())


def _grams(text: str) -> set[str]:
    """The n-grams of the first words, n from 1 to 4."""
    words = _words(text)[:60]
    return {" ".join(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1)}


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
