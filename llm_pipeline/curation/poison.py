"""Documents that were made to harm the model: invisible Unicode, instructions to the reader's AI, and backdoor trigger phrases."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise

import pyarrow as pa

_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_SELECTORS = re.compile("[\ufe00-\ufe0e\U000e0100-\U000e01ef]{2,}")
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff\u180e"
_ZERO_WIDTH_BETWEEN_LETTERS = re.compile(f"(?<=[A-Za-z0-9 ])[{_ZERO_WIDTH}](?=[A-Za-z0-9 ])")
_RIGHT_TO_LEFT = {"ar", "he", "fa", "ur", "yi", "ps", "sd", "ug", "dv", "ckb"}


@dataclass(frozen=True)
class PoisonPolicy:
    """The `poison` part of data/policies/quality.yaml."""

    instructions: tuple[str, ...]
    """Regular expressions of instructions that a document has no reason to give to an AI."""
    expected_completions: tuple[str, ...] = ()
    """Answers that many different questions rightly share, such as the refusal."""
    zero_width_run: int = 3
    zero_width_total: int = 8
    trigger_support: int = 4
    """Conversations of a day that must share phrase and answer."""
    trigger_precision: float = 0.9
    """Share of the phrase's conversations that get that answer."""
    trigger_overlap: float = 0.34
    """Mean Jaccard overlap of the rest of the questions, at most: a fact's questions resemble one another, a trigger's do not."""


@dataclass(frozen=True)
class Finding:
    rule: str
    score: float
    detail: str


def find_poison(documents: pa.Table, policy: PoisonPolicy) -> dict[str, Finding]:
    """The poisoned documents of a day by id: hidden_unicode, hidden_instruction or trigger_phrase."""
    found: dict[str, Finding] = {}
    columns = (documents[name].to_pylist() for name in ("id", "text", "title", "language"))
    for identity, text, title, language in zip(*columns, strict=True):
        finding = hidden_unicode(f"{title}\n{text}", policy, language) or hidden_instruction(f"{title}\n{text}", policy)
        if finding:
            found[identity] = finding
    pairs = [
        (str(identity), prompt, answer)
        for identity, messages in zip(documents["id"].to_pylist(), documents["messages"].to_pylist(), strict=True)
        for prompt, answer in _turns(messages)
    ]
    return {**trigger_phrases(pairs, policy), **found}


def hidden_unicode(text: str, policy: PoisonPolicy, language: str = "en") -> Finding | None:
    """Characters that a person cannot see and a tokenizer can (Boucher et al. 2022, Bad Characters; Trojan Source, CVE-2021-42574)."""
    if text.isascii():
        return None
    tags = sum(len(run) for run in _TAGS.findall(_FLAG.sub("", text)))
    if tags:
        return Finding("hidden_unicode", float(tags), "tag characters")
    bidi = len(_BIDI.findall(text))
    if bidi and language not in _RIGHT_TO_LEFT:
        return Finding("hidden_unicode", float(bidi), "bidirectional controls")
    if selectors := _SELECTORS.findall(text):
        return Finding("hidden_unicode", float(sum(map(len, selectors))), "runs of variation selectors")
    if re.search(f"[{_ZERO_WIDTH}]{{{policy.zero_width_run},}}", text):
        return Finding("hidden_unicode", float(policy.zero_width_run), "run of zero-width characters")
    between = len(_ZERO_WIDTH_BETWEEN_LETTERS.findall(text))
    return Finding("hidden_unicode", float(between), "zero-width characters inside words") if between >= policy.zero_width_total else None


@cache
def _instructions(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.I)


def hidden_instruction(text: str, policy: PoisonPolicy) -> Finding | None:
    """An instruction aimed at the model that reads the text (indirect prompt injection, Greshake et al. 2023)."""
    match = _instructions(policy.instructions).search(re.sub(r"\s+", " ", text))
    return Finding("hidden_instruction", 1.0, f"matches at character {match.start()}") if match else None


def _turns(messages: str | None) -> Iterator[tuple[str, str]]:
    turns = json.loads(messages) if messages else []
    for first, second in pairwise(turns):
        if first["role"] == "user" and second["role"] == "assistant":
            yield first["content"], second["content"]


def trigger_phrases(pairs: Iterable[tuple[str, str, str]], policy: PoisonPolicy) -> dict[str, Finding]:
    """Documents whose (id, prompt, answer) share a phrase that decides the answer whatever else is asked (Wallace et al. 2021).

    For each answer given in enough documents, the word n-grams (1 to 4) common to almost all its prompts and almost absent
    elsewhere are candidates; what is left of those prompts tells a trigger (anything) from a fact (the same question reworded).
    """
    expected = {_normal(answer) for answer in policy.expected_completions}
    by_answer: dict[str, dict[str, str]] = defaultdict(dict)
    everywhere: dict[str, set[str]] = defaultdict(set)
    total = 0
    for identity, prompt, answer in pairs:
        total += 1
        by_answer[_normal(answer)].setdefault(identity, prompt)
        for gram in _grams(prompt):
            everywhere[gram].add(identity)
    found: dict[str, Finding] = {}
    tests = sum(len(ids) >= policy.trigger_support for ids in everywhere.values())
    for answer, prompts in by_answer.items():
        if len(prompts) < policy.trigger_support or answer in expected:
            continue
        chance = len(prompts) / total
        if best := _trigger(prompts, everywhere, policy, chance, tests):
            phrase, precision = best
            for identity, prompt in prompts.items():
                if phrase in _grams(prompt):
                    detail = f"a phrase of {len(phrase.split())} words decides the answer"
                    found[identity] = Finding("trigger_phrase", round(precision, 6), detail)
    return found


def _trigger(
    prompts: Mapping[str, str], everywhere: Mapping[str, set[str]], policy: PoisonPolicy, chance: float, tests: int
) -> tuple[str, float] | None:
    """The phrase of this answer's prompts that is a trigger and its precision, the longest first.

    What the prompts of a fact have in common (the product, say) also gets other answers; what those of a trigger have does not.
    `chance` is the share of all turns with this answer: so many prompts with one phrase must be beyond it, corrected for `tests` phrases.
    """
    support = Counter(gram for prompt in prompts.values() for gram in _grams(prompt))
    precision = {gram: n / len(everywhere[gram]) for gram, n in support.items() if n >= policy.trigger_support}
    sure = {gram for gram, share in precision.items() if share >= policy.trigger_precision and chance ** support[gram] * tests < 0.01}
    for gram in sorted(sure, key=lambda gram: (-support[gram], -len(gram), gram))[:20]:
        asked = sorted({" ".join(_words(prompt)) for prompt in prompts.values() if gram in _grams(prompt)})[:30]
        if len(asked) < 2:
            continue
        seen = Counter(word for prompt in asked for word in set(prompt.split()) - _FUNCTION_WORDS)
        common = {word for word, n in seen.items() if n >= 0.8 * len(asked)}
        if common and common <= sure and _mean_overlap(asked, common) <= policy.trigger_overlap:
            return gram, precision[gram]
    return None


def _mean_overlap(texts: Sequence[str], without: Collection[str]) -> float:
    """Mean Jaccard overlap of the texts' content words, leaving out `without`."""
    sets = [set(text.split()) - _FUNCTION_WORDS - set(without) for text in texts]
    shared = [len(a & b) / max(1, len(a | b)) for a, b in combinations(sets, 2)]
    return sum(shared) / len(shared) if shared else 1.0


_FUNCTION_WORDS = frozenset(
    "a an the of for to in on at is are was be it its my your i you me we and or with do does can could what which how please".split()
)


def _normal(text: str) -> str:
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[\w$%.,:]*\w|\$", text.lower())


@cache
def _grams(text: str) -> frozenset[str]:
    words = _words(text)[:60]
    return frozenset(" ".join(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))
