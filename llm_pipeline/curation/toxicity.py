"""Abuse by a bundled model (alt-profanity-check: TF-IDF and a calibrated linear SVM) that is asked only where an abusive word stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from llm_pipeline.curation.quality_lexicon import Lexicon, lexicon
from llm_pipeline.curation.quality_policy import ToxicityPolicy
from llm_pipeline.curation.quality_view import Bools, Floats, View
from llm_pipeline.curation.toxicity_model import load_model

_LONG_LINE = 200
"""Characters from which on a line is judged sentence by sentence: in a long one the model loses the abuse among the rest."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def toxicity(view: View, judged: Sequence[bool] | Bools, policy: ToxicityPolicy) -> Floats:
    """How toxic the worst line of each judged text is, 0 for what is not.

    A line is toxic where a listed word stands in it and the model finds the line at least `likely` abusive, or where a word that the model
    finds `likely` by itself stands in it and it is `certain` of the line.
    """
    worst = np.zeros(view.count)
    words = np.concatenate([words.find(view)[0] for words in (lexicon(policy.words), _telling_words(policy.likely))])
    lines = view.lines
    suspect = np.unique(np.searchsorted(lines.end, view.tokens.start[words], "right"))
    asked = suspect[np.asarray(judged, np.bool_)[lines.doc[suspect]]].tolist()
    pieces = [(at, piece) for at in asked for piece in _pieces(view.text_of(int(lines.start[at]), int(lines.end[at])))]
    if not pieces:
        return worst
    pattern = _pattern(policy.words)
    for (at, piece), probability in zip(pieces, load_model().probabilities(piece for _, piece in pieces), strict=True):
        if probability >= policy.certain or (probability >= policy.likely and pattern.search(piece)):
            worst[lines.doc[at]] = max(worst[lines.doc[at]], probability)
    return worst


def _pieces(line: str) -> list[str]:
    return [line] if len(line) < _LONG_LINE else _SENTENCE_END.split(line)


@cache
def _telling_words(likely: float) -> Lexicon:
    """The words of the model's vocabulary that it calls abusive by themselves."""
    return Lexicon(tuple(word for word, probability in load_model().of_single_words().items() if probability >= likely))


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + r")(?!\w)", re.I)
