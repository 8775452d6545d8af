"""Rules that read an answer word by word: runs of the system prompt's words, abuse, and words that the retrieved texts lack."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import islice

_WORD = re.compile(r"[^\W_]+")
_ASCII_WORD = re.compile("[a-z0-9]+")
_SENTENCE_END = re.compile(r"[.!?\n]")
_SUSPICIOUS = 3
"""So many words of the system prompt in a row are held back until it is clear whether they are a leak."""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    lower = text.lower()
    return (_ASCII_WORD if lower.isascii() else _WORD).findall(lower)


@lru_cache(maxsize=64)
def _positions(system: str) -> dict[str, int]:
    """Of each word of the system prompt the numbers of its places, as bits."""
    at: dict[str, int] = defaultdict(int)
    for i, word in enumerate(words_of(system)):
        at[word] |= 1 << i
    return dict(at)


class LeakRule:
    """Follows how many words in a row an answer shares with the system prompt, at all of their places there at once (Shift-And,
    Baeza-Yates and Gonnet 1992)."""

    def __init__(self, system: str, words: int) -> None:
        self._at = _positions(system)
        self._limit = max(words, _SUSPICIOUS)
        self._places = 0
        self.run = 0
        self._began = (0, "", 0)
        """Where the run's first word stands: characters before its piece, the piece, and the word's number there."""
        self.read = 0
        """Characters of the answer so far."""

    def add(self, piece: str, words: Sequence[str]) -> int | None:
        """Where the first leak begins that `piece` (with its `words` in lower case) completes, in characters of the answer."""
        at, places, run, leaked = self._at, self._places, self.run, None
        for i, word in enumerate(words):
            here = at.get(word, 0)
            if following := places << 1 & here:
                places = following
                run += 1
                if run == self._limit and leaked is None:
                    leaked = self.start
            elif here:
                places, run, self._began = here, 1, (self.read, piece, i)
            else:
                places = run = 0
        self._places, self.run = places, run
        self.read += len(piece)
        return leaked

    @property
    def start(self) -> int:
        """Where the run of equal words began, in characters of the answer (of which lower case may have more: rather too early)."""
        before, piece, number = self._began
        lower = piece.lower()
        return before + next(islice(_WORD.finditer(lower), number, None)).start() - (len(lower) - len(piece))

    @property
    def suspicious(self) -> bool:
        return self.run >= _SUSPICIOUS


_GROUPS = frozenset("gay gays homosexual homosexuals queer lesbian jew jews jewish muslim muslims black white women men fat mental".split())


@cache
def telling_words() -> frozenset[str]:
    """Words that the toxicity model of the curation finds abusive by themselves, but for those that only name a group of people.

    Only a sentence with one of them is judged.
    """
    from llm_pipeline.curation.toxicity_model import load_model

    return frozenset(word for word, probability in load_model().of_single_words().items() if probability >= 0.6) - _GROUPS


def toxic(text: str) -> float:
    """How likely the worst sentence that has a telling word is abusive."""
    from llm_pipeline.curation.toxicity_model import load_model

    told = telling_words()
    if told.isdisjoint(words_of(text)):
        return 0.0
    pieces = [piece for piece in _SENTENCE_END.split(text) if not told.isdisjoint(words_of(piece))]
    return max(load_model().probabilities(pieces), default=0.0)


class ToxicityRule:
    """The probability that the sentence so far is abusive, asked at each telling word."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._told = telling_words()
        self._sentence = ""

    def add(self, piece: str, words: Sequence[str]) -> bool:
        """Whether the sentence that `piece` (with its `words` in lower case) goes on with is toxic."""
        self._sentence += piece
        found = not self._told.isdisjoint(words) and toxic(self._sentence) >= self._threshold
        if _SENTENCE_END.search(piece) or len(self._sentence) > 400:
            self._sentence = _SENTENCE_END.split(self._sentence)[-1][-200:]
        return found


_COMMON = frozenset(
    "about above after again also although always another answer because been before being below between both cannot could "
    "does doing during each either every first from further have having here however into itself just like more most must "
    "need only other ours over please provide same says should some such than that their them then there these they this "
    "those through under until very were what when where which while will with would your yours information according text "
    "context question".split()
)


def grounded_share(answer: str, sources: Sequence[str]) -> float:
    """Share of an answer's content words (by their first six letters) and numbers that stand in the sources; 1 when it has too few."""
    claimed = {_stem(word) for word in words_of(answer) if word not in _COMMON and (len(word) > 3 or word.isdigit())}
    if len(claimed) < 4:
        return 1.0
    known = {_stem(word) for source in sources for word in words_of(source)}
    return len(claimed & known) / len(claimed)


def _stem(word: str) -> str:
    return word if word.isdigit() else word[:6]
