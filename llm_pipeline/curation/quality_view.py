"""Many texts as one array of characters, cut into words, tokens, lines and paragraphs once, so that scores are array arithmetic.

A word is what stands between white space, a token a run of word characters (`\\w+`) in lower case; in scripts that are written
without spaces every character is a word and a token of its own. Cutting and hashing cost about 20 ns a character.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from llm_pipeline.curation.poison_unicode import LOOK_ALIKES

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

SPACE, WORD, LETTER, UPPER, UNSPACED, TERMINAL, VOWEL, PLAIN_VOWEL, CONSONANT, SELDOM, HIDDEN, LOOK_ALIKE = (
    np.uint16(1 << bit) for bit in range(12)
)
SENTENCE_END, PIECE_END, NO_LETTER, NO_CAPITAL = (np.uint16(1 << bit) for bit in range(12, 16))
"""The last two are of word characters."""
LONGEST = 2_000_000
"""Characters of a document that are looked at; ten times Gopher's longest document of 100,000 words is longer than any good one."""
_LETTERS = {
    TERMINAL: ".!?\"'”’»…。！？؟।:",
    SENTENCE_END: ".!?…。！？؟।",
    PIECE_END: ".!?|",
    PLAIN_VOWEL: "aeiou",
    CONSONANT: "bcdfghjklmnpqrstvwxz",
    SELDOM: "qjxzv",
}
_VOWELS = "aeiouyæøœıəɛɔ"
_LATIN = 0x1F00
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Thai, Lao, Burmese, Khmer, kana and Han."""
_HIDDEN = (
    *(
        (0xAD, 0xAD),
        (0x180E, 0x180E),
        (0x200B, 0x200D),
        (0x202A, 0x202E),
        (0x2060, 0x2064),
        (0x2066, 0x2069),
        (0xFE00, 0xFE0E),
        (0xFEFF, 0xFEFF),
    ),
    *((0xFF21, 0xFF5A), (0x1D400, 0x1D7FF), (0xE0000, 0xE01EF)),
)
"""Invisible characters, and letters that are others in fancy dress."""
_KNOWN = 0x40000
"""Code points above are letters of nothing."""
SLOTS = 1 << 18
WRAPPED = 40
"""Characters from which on a line may have been wrapped."""
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@cache
def _classes() -> npt.NDArray[np.uint16]:
    """The classes of every code point, as Python's str methods see it."""
    table = np.zeros(sys.maxunicode + 1, np.uint16)
    characters = [chr(code) for code in range(_KNOWN)]
    table[:_KNOWN] |= np.array([c.isspace() for c in characters]) * SPACE
    table[:_KNOWN] |= np.array([c.isalnum() or c == "_" for c in characters]) * WORD
    table[:_KNOWN] |= np.array([c.isalpha() for c in characters]) * LETTER
    table[:_KNOWN] |= np.array([c.isupper() for c in characters]) * UPPER
    table[:_LATIN] |= np.array([unicodedata.normalize("NFD", c)[0].lower() in _VOWELS for c in characters[:_LATIN]]) * VOWEL
    for first, last in _UNSPACED:
        table[first : last + 1] |= (table[first : last + 1] & WORD > 0) * UNSPACED
    for kind, letters in _LETTERS.items():
        table[[ord(c) for c in {*letters, *letters.upper()}]] |= kind
    for first, last in _HIDDEN:
        table[first : last + 1] |= HIDDEN
    table[[ord(c) for c in LOOK_ALIKES]] |= LOOK_ALIKE
    word = table & WORD > 0
    table[word & (table & LETTER == 0)] |= NO_LETTER
    table[word & (table & UPPER == 0)] |= NO_CAPITAL
    return table


@cache
def _lower() -> Hashes:
    table = np.arange(sys.maxunicode + 1, dtype=np.uint64)
    lowered = [chr(code).lower() for code in range(_KNOWN)]
    table[:_KNOWN] = [ord(c) if len(c) == 1 else code for code, c in enumerate(lowered)]
    return table


@lru_cache(maxsize=2)
def _powers(size: int) -> Hashes:
    """PRIME to the power of 0, 1, ... size."""
    return np.multiply.accumulate(np.concatenate([np.ones(1, np.uint64), np.full(size, _PRIME)]))


def hash_of(text: str) -> int:
    """What `View.hashes` gives for a piece with this text."""
    total = sum(int(_lower()[ord(c)]) * pow(int(_PRIME), k, 1 << 64) for k, c in enumerate(text)) % (1 << 64)
    return int(mixed(np.array([total], np.uint64))[0])


def mixed(values: Hashes) -> Hashes:
    """Well spread 64-bit values (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def holders(ends: Ints, positions: Ints) -> Ints:
    """For each of the ascending positions, the number of the first end that is not before it: one search an end, not a position."""
    return np.repeat(np.arange(len(ends)), np.diff(np.searchsorted(positions, ends, side="right"), prepend=0))


def _different(ascending: Ints) -> Ints:
    return ascending[np.diff(ascending, prepend=-1) != 0]


@dataclass(frozen=True)
class Segments:
    """Pieces of the array: `[start, end)` in characters and the document that each lies in."""

    start: Ints
    end: Ints
    doc: Ints

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def length(self) -> Ints:
        return self.end - self.start


class View:
    """Texts cut once for all scores; a line or paragraph without words is none."""

    def __init__(self, texts: Sequence[str]) -> None:
        cut = [text[:LONGEST] for text in texts]
        self.count = len(cut)
        joined = "\n".join([*cut, ""])
        self.codes: npt.NDArray[np.uint32] = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        self.classes = _classes().take(self.codes)
        self.ends = np.cumsum([len(text) + 1 for text in cut], dtype=np.int64) - 1
        self._any_unspaced = bool((self.classes & UNSPACED).any())

    def is_a(self, kind: np.uint16) -> Bools:
        return (self.classes & kind) != 0

    @cached_property
    def words(self) -> Segments:
        return self._runs(~self.is_a(SPACE))

    @cached_property
    def tokens(self) -> Segments:
        return self._runs(self.is_a(WORD))

    def _runs(self, inside: Bools) -> Segments:
        change = np.empty(len(inside), np.bool_)
        change[0:1] = inside[0:1]
        np.not_equal(inside[1:], inside[:-1], out=change[1:])
        if not self._any_unspaced:
            start, end = np.flatnonzero(change).reshape(-1, 2).T.copy()  # every text ends in a line end, which is in no piece
            return Segments(start, end, holders(self.ends, start))
        alone = self.is_a(UNSPACED)
        change |= alone
        change[1:] |= alone[:-1]
        at = np.flatnonzero(change)
        first = inside[at]
        start = at[first]
        end = np.append(at[1:], len(inside))[first]
        return Segments(start, end, holders(self.ends, start))

    @cached_property
    def _prefix(self) -> Hashes:
        """Sums of character times power, so that the hash of any piece is one subtraction."""
        sums = np.zeros(len(self.codes) + 1, np.uint64)
        np.cumsum(_lower().take(self.codes) * self._powers[: len(self.codes)], out=sums[1:])
        return sums

    @cached_property
    def _powers(self) -> Hashes:
        return _powers(max(1 << 20, 1 << len(self.codes).bit_length()))

    def hashes(self, pieces: Segments) -> Hashes:
        """64-bit hashes of the pieces in lower case: equal text, equal hash, wherever it stands."""
        size = len(self.codes)
        back = np.uint64(pow(int(_PRIME), -size, 1 << 64))
        return mixed((self._prefix.take(pieces.end) - self._prefix.take(pieces.start)) * self._powers.take(size - pieces.start) * back)

    @cached_property
    def token_hashes(self) -> Hashes:
        return self.hashes(self.tokens)

    @cached_property
    def token_slots(self) -> Ints:
        """The tokens' places in a table of SLOTS."""
        return (self.token_hashes & np.uint64(SLOTS - 1)).astype(np.int64)

    @cached_property
    def _line_starts(self) -> Ints:
        """The first word of every line, and the number of words last."""
        return _different(np.concatenate([[0], np.searchsorted(self.words.start, self.newlines), [len(self.words)]]))

    @cached_property
    def newlines(self) -> Ints:
        return np.flatnonzero(self.codes == 10)

    @property
    def line_begins(self) -> Bools:
        """Which words are the first of their line."""
        begins = np.zeros(len(self.words), np.bool_)
        begins[self._line_starts[:-1]] = True
        return begins

    @cached_property
    def lines(self) -> Segments:
        """Lines with words, without the white space around them."""
        return self._of_words(self._line_starts)

    @cached_property
    def passages(self) -> Segments:
        """Lines as they were before they were wrapped: a long one without an end goes on in the next, when that begins small."""
        return self._of_words(self.passage_starts)

    @cached_property
    def paragraphs(self) -> Segments:
        """Lines with nothing but line ends between them belong together; an empty line parts them."""
        return self._of_words(self._joined(self._line_ends_before == 1))

    @cached_property
    def passage_starts(self) -> Ints:
        """The first word of every passage, and the number of words last."""
        long, first = self.lines.length[:-1] >= WRAPPED, self.lines.start[1:]
        unended = (self.classes[self.lines.end[:-1] - 1] & TERMINAL) == 0
        small = (self.classes[first] & (LETTER | UPPER)) == LETTER
        return self._joined(long & unended & small & (self._line_ends_before == 1))

    @cached_property
    def _line_ends_before(self) -> Ints:
        """How many lines each line but the first is below the one before it; 0 at the beginning of a text."""
        number = np.searchsorted(self.newlines, self.lines.start)
        return np.where(np.diff(self.lines.doc) == 0, np.diff(number), 0)

    def _joined(self, goes_on: Bools) -> Ints:
        """The first words of the lines that do not go on from the line before, and the number of words last."""
        begins = np.append(True, ~goes_on)[: len(self.lines)]
        return np.append(self._line_starts[:-1][begins], len(self.words))

    def _of_words(self, firsts: Ints) -> Segments:
        """Pieces from one first word to the word before the next."""
        starts, lasts = firsts[:-1], firsts[1:] - 1
        return Segments(self.words.start[starts], self.words.end[lasts], self.words.doc[starts])

    def text(self, number: int) -> str:
        """One of the texts, as far as it is looked at."""
        return self.text_of(self.first(number), int(self.ends[number]))

    def first(self, number: int) -> int:
        """Where one of the texts begins."""
        return int(self.ends[number - 1]) + 1 if number else 0

    def between(self, number: int, start: int, end: int) -> str:
        """What stands between two positions of one of the texts, as far as it goes, on one line."""
        start, end = max(self.first(number), start), min(int(self.ends[number]), end)
        return " ".join(self.text_of(start, end).split())

    def documents_at(self, positions: Ints) -> Ints:
        """The texts in which characters stand."""
        return np.searchsorted(self.ends, positions)

    def text_of(self, start: int, end: int) -> str:
        return self.codes[start:end].tobytes().decode("utf-32-le", "surrogatepass")

    def per_document(self, doc: Ints, values: npt.NDArray[np.generic] | None = None) -> Floats:
        """The sum of `values` (or the number of rows) by document."""
        return np.bincount(doc, values, minlength=self.count).astype(np.float64)
