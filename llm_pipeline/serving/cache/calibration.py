"""The similarity from which two wordings may share an answer, chosen so that wrong sharing stays below a stated rate.

The thresholds are tried from the strictest down and the last one is taken before the upper confidence bound of the false-hit rate
(Clopper and Pearson 1934) exceeds the limit. Testing in a fixed order and stopping at the first failure keeps the confidence although many
thresholds are tried (Angelopoulos et al. 2021, "Learn then Test", arXiv:2110.01052).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from llm_pipeline.errors import InputError
from llm_pipeline.serving.cache.facts import facts

THRESHOLDS = tuple(round(1 - 0.005 * i, 3) for i in range(101))
Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Pair:
    """A question, a kept question that comes near, how near it is, and whether one answer is right for both."""

    question: str
    nearest: str
    similarity: float
    same: bool


@dataclass(frozen=True)
class Calibration:
    """What a threshold does on the pairs that it was calibrated on."""

    threshold: float
    false_hits: int
    different: int
    """Pairs that must not share an answer."""
    bound: float
    """Upper confidence bound of the false-hit rate: the share of such pairs that would."""
    hits: int
    same: int


def pairs_of(stream: Sequence[tuple[str, str]], embed: Embed, *, guard: bool = True) -> list[Pair]:
    """For each question of a stream of (question, meaning) the nearest earlier one of its meaning and the nearest of another meaning.

    With `guard` only those of the same facts, which is what the cache compares. The second pair is the worst case: a cache that has
    everything but the right answer. Repeated wordings are left out: the exact cache answers those.
    """
    meaning = dict(stream)
    texts = list(meaning)
    vectors = embed(texts)
    spaces: dict[object, list[int]] = defaultdict(list)
    found = []
    for i, text in enumerate(texts):
        space = spaces[facts(text) if guard else None]
        scores = vectors[space] @ vectors[i] if space else np.zeros(0, np.float32)
        like = np.array([meaning[texts[j]] == meaning[text] for j in space], bool)
        for same in (True, False):
            if (like == same).any():
                best = int(np.where(like == same, scores, -2).argmax())
                found.append(Pair(text, texts[space[best]], float(scores[best]), same))
        space.append(i)
    return found


def upper_bound(bad: int, number: int, confidence: float) -> float:
    """Above the true rate with this confidence (Clopper and Pearson)."""
    return 1.0 if bad >= number else float(beta.ppf(confidence, bad + 1, number - bad))


def at_threshold(pairs: Sequence[Pair], threshold: float, confidence: float = 0.95) -> Calibration:
    """What this threshold does on these pairs."""
    different = sum(not pair.same for pair in pairs)
    above = [pair for pair in pairs if pair.similarity >= threshold]
    wrong = sum(not pair.same for pair in above)
    return Calibration(threshold, wrong, different, upper_bound(wrong, different, confidence), len(above) - wrong, len(pairs) - different)


def calibrate(pairs: Sequence[Pair], most: float = 0.01, confidence: float = 0.95, thresholds: Iterable[float] = THRESHOLDS) -> Calibration:
    """The lowest threshold whose false-hit rate is at most `most` with this confidence; `InputError` when there are too few pairs."""
    chosen: Calibration | None = None
    for threshold in sorted(thresholds, reverse=True):
        found = at_threshold(pairs, threshold, confidence)
        if found.bound > most:
            break
        chosen = found
    if chosen is None:
        different = sum(not pair.same for pair in pairs)
        needed = int(np.ceil(np.log(1 - confidence) / np.log(1 - most)))
        raise InputError(
            f"{different} pairs of different meaning: at least {needed} (none of them a false hit) can show a rate of at most {most:g} "
            f"with confidence {confidence:g}"
        )
    return chosen
