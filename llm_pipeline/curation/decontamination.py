"""Documents that hold an evaluation question are found, so that no model is trained on what it will be asked.

Method: overlap of word n-grams (Brown et al. 2020, appendix C), with the whole question as one n-gram when it is shorter.
Whole questions, not short pieces of them, because a knowledge base must share its product and attribute names with the suites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from llm_pipeline.curation.signatures import normalise

NGRAM = 13
SHORTEST = 5
"""A question of fewer words proves nothing alone; it counts together with its answer right after it."""


@dataclass(frozen=True)
class Match:
    """Document number `document` holds `length` words in a row of the question `question_id` (`suite/id`)."""

    document: int
    question_id: str
    length: int


def targets(suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Word n-grams that must not occur, each with the `suite/id` of a question it comes from (the first, in order of suites)."""
    found: dict[str, str] = {}
    for suite, rows in sorted(suites.items()):
        for row in rows:
            for ngram in _ngrams(str(row["question"]), str(row.get("answer") or "")):
                found.setdefault(ngram, f"{suite}/{row['id']}")
    return found


def _ngrams(question: str, answer: str) -> list[str]:
    words = normalise(question).split()
    if len(words) < SHORTEST:
        words += normalise(answer).split()
    if len(words) < SHORTEST:
        return []
    n = min(len(words), NGRAM)
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def find_contaminated(texts: Sequence[str], suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Match]:
    """The first match of every contaminated text, in the order of texts (one Aho-Corasick pass over all n-grams)."""
    wanted = targets(suites)
    if not wanted or not texts:
        return []
    padded = pl.Series([f" {normalise(text)} " for text in texts], dtype=pl.String)
    hits = padded.str.extract_many([f" {ngram} " for ngram in wanted], overlapping=True).to_list()
    return [Match(i, wanted[found[0].strip()], len(found[0].split())) for i, found in enumerate(hits) if found]
