"""What an answer is worth: exact match, ROUGE-L, refusal and groundedness, each for one answer at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

_REFUSALS = re.compile(
    r"\b(?:i|we) (?:do not|don.?t|did not|cannot|can.?t|am not able to|are not able to|am unable to|could not) "
    r"(?:have|know|find|answer|say|tell|help|give|provide)|\bno (?:such )?information (?:is |was )?(?:available|given|found)|"
    r"\bnot (?:mentioned|stated) in the",
    re.IGNORECASE,
)
_ARTICLES = {"a", "an", "the"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TOKEN = re.compile(r"[$€£¥]?[+-]?\d+(?:[.:,/]\d+)*%?|[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|[$€£¥%]")


def normalise(text: str) -> list[str]:
    """Lower-cased words without punctuation and articles, as SQuAD does (Rajpurkar et al. 2016), but numbers stay whole.

    `$4.50`, `$4.5` and `$450` differ (plain removal of punctuation makes two of them equal); `$1,000` and `$1000` do not.
    """
    return [token for token in _TOKEN.findall(_THOUSANDS.sub("", text.casefold())) if token not in _ARTICLES]


def exact_match(answer: str, reference: str) -> bool:
    """The same normalised words in the same order; an empty reference is matched by an empty answer only."""
    return normalise(answer) == normalise(reference)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), by Google's rouge-score."""
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


def is_refusal(answer: str) -> bool:
    """Whether the answer says that it cannot answer."""
    return bool(_REFUSALS.search(answer.replace("’", "'")))


def is_grounded(answer: str, passages: Sequence[str]) -> bool:
    """Whether every word and number of the answer stands in one of the passages; an empty answer is not grounded."""
    tokens = set(normalise(answer))
    return bool(tokens) and any(tokens <= set(normalise(passage)) for passage in passages)
