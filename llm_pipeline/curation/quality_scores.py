"""The quality scores of many texts at once; what each is for, its limits and its source stand in data/policies/quality.yaml."""

from __future__ import annotations

import numpy as np

from llm_pipeline.curation.quality_lexicon import Lexicon
from llm_pipeline.curation.quality_repetition import REPEATED, TOP, duplicate_pieces, repetition_scores, share
from llm_pipeline.curation.quality_view import (
    CONSONANT,
    LETTER,
    NO_CAPITAL,
    NO_LETTER,
    PIECE_END,
    PLAIN_VOWEL,
    SELDOM,
    SENTENCE_END,
    TERMINAL,
    VOWEL,
    Bools,
    Floats,
    Ints,
    Segments,
    View,
)

NAMES = (
    *("word_count", "mean_word_length", "alphabetic_words", "symbol_ratio", "bullet_lines", "ellipsis_lines", "stop_words"),
    *("duplicate_lines", "duplicate_line_characters", "duplicate_paragraphs", "duplicate_paragraph_characters"),
    *(f"top_{n}_gram" for n in TOP),
    *(f"duplicate_{n}_grams" for n in REPEATED),
    *("unique_words", "sentences", "curly_brackets", "lorem_ipsum", "punctuated_lines", "short_lines", "newlines"),
    *("boilerplate_words", "implausible_words"),
)
SOME_LINES = 4
"""Lines from which on the share of repeated ones means something."""
SHORT_LINE = 30
"""FineWeb's: characters of a line that is short."""
_STOP_WORDS = Lexicon(("the", "be", "to", "of", "and", "that", "have", "with"))
_LOREM = Lexicon(("lorem ipsum",))
_NO_SENTENCE = Lexicon(
    ("javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
)
_BOILERPLATE = Lexicon(
    (
        *(f"{verb} cookies" for verb in ("use", "uses", "store", "stores", "our", "accept", "all", "reject")),
        *("cookie policy", "cookie settings", "cookie preferences", "cookies help", "cookies on your", "use of cookies"),
        *("terms of use", "terms of service", "privacy policy", "privacy notice", "all rights reserved", "javascript", "sitemap"),
        *("subscribe to", "newsletter", "copyright", "imprint", "log in", "login", "sign up", "back to top", "share this page"),
        *("print this page", "follow us", "skip to content", "skip to main content", "accept all", "manage preferences"),
    )
)
_BULLETS = np.array([ord(c) for c in "-*•‣"], np.uint32)
_RARE_PAIRS = ("qj", "qz", "jq", "zx", "xz", "vq", "qv", "jx", "xj", "wq", "qx", "zq", "vj", "jz")


def quality_scores(view: View) -> dict[str, Floats]:
    """Every score of NAMES, one value per text."""
    words, lines = view.words, view.lines
    number, line_number = view.per_document(words.doc), view.per_document(lines.doc)
    line_shares = duplicate_pieces(view, lines)
    paragraph_shares = duplicate_pieces(view, view.paragraphs)
    passages = view.passages
    passage_number = view.per_document(passages.doc)
    punctuated = view.per_document(passages.doc[view.classes[passages.end - 1] & TERMINAL > 0])
    sentence_end = _ends_sentence(view)

    def of_lines(chosen: Bools) -> Floats:
        return share(view.per_document(lines.doc[chosen]), line_number)

    scores = {
        "word_count": number,
        "mean_word_length": share(view.per_document(words.doc, words.length), number),
        "alphabetic_words": share(view.per_document(words.doc, _with_any(view.is_a(LETTER), words)), number),
        "symbol_ratio": share(np.maximum(_characters(view, "#"), _characters(view, "…") + _triple_dots(view)), number),
        "bullet_lines": of_lines(np.isin(view.codes[lines.start], _BULLETS)),
        "ellipsis_lines": of_lines(_ellipsis(view, lines)),
        "stop_words": _STOP_WORDS.present(view).astype(np.float64),
        "duplicate_lines": line_shares[0] * (line_number >= SOME_LINES),
        "duplicate_line_characters": line_shares[1],
        "duplicate_paragraphs": paragraph_shares[0],
        "duplicate_paragraph_characters": paragraph_shares[1],
        **repetition_scores(view),
        "sentences": _sentences(view, sentence_end),
        "curly_brackets": _characters(view, "{") + _characters(view, "}"),
        "lorem_ipsum": _LOREM.counts(view).astype(np.float64),
        "punctuated_lines": np.where(
            passage_number == 1, view.per_document(words.doc, sentence_end) > 0, share(punctuated, passage_number)
        ),
        "short_lines": of_lines(lines.length <= SHORT_LINE),
        "newlines": share(_characters(view, "\n") - 1, number),
        "boilerplate_words": _boilerplate_words(view, number),
        "implausible_words": _implausible_words(view),
    }
    return {name: scores[name] for name in NAMES}


def _characters(view: View, character: str) -> Floats:
    return view.per_document(view.documents_at(np.flatnonzero(view.codes == ord(character))))


def _with_any(mask: Bools, pieces: Segments) -> Bools:
    """Which pieces have a character that is marked."""
    upto = np.zeros(len(mask) + 1, np.int32)
    np.cumsum(mask, out=upto[1:])
    return upto.take(pieces.end) > upto.take(pieces.start)


def _ellipsis(view: View, pieces: Segments) -> Bools:
    """Which pieces end with an ellipsis, of one character or three."""
    dots = view.codes == ord(".")
    three = (pieces.length >= 3) & dots[pieces.end - 1] & dots[pieces.end - 2] & dots[pieces.end - 3]
    return three | (view.codes[pieces.end - 1] == ord("…"))


def _triple_dots(view: View) -> Floats:
    """How often `...` stands in a document, six dots counted twice."""
    dots = np.flatnonzero(view.codes == ord("."))
    begins = np.flatnonzero(np.diff(dots, prepend=-2) != 1)
    return view.per_document(view.documents_at(dots[begins]), np.diff(begins, append=len(dots)) // 3)


def _words_of(view: View, positions: Ints) -> Ints:
    """The word in which a character stands."""
    return np.searchsorted(view.words.start, positions, side="right") - 1


def _ends_sentence(view: View) -> Bools:
    """Which words have a sentence end, at most a quote or bracket behind it."""
    end = view.words.end
    return ((view.classes[end - 1] | view.classes[end - 2] * (view.words.length > 1)) & SENTENCE_END) != 0


def _sentences(view: View, sentence_end: Bools) -> Floats:
    """Sentences in the lines that C4 retains: five words and more, ended by a sentence end or quote, without policy or script words.

    Wrapped lines are joined first. A text of one line is a passage, not a page: it has no such number.
    """
    lines, size = view.passages, np.diff(view.passage_starts)
    wanted = (view.classes[lines.end - 1] & TERMINAL > 0) & ~_ellipsis(view, lines) & (size >= 5)
    first, _ = _NO_SENTENCE.find(view)
    wanted[np.searchsorted(lines.start, view.tokens.start[first], side="right") - 1] = False
    number = view.per_document(view.words.doc, sentence_end & np.repeat(wanted, size))
    return np.where(view.per_document(lines.doc) > 1, number, np.nan)


def _boilerplate_words(view: View, number: Floats) -> Floats:
    """Share of the words in sentences (or menu entries between bars) with a phrase of page furniture; from twelve words on."""
    words = view.words
    first, _ = _BOILERPLATE.find(view)
    if not len(first):
        return np.zeros(view.count)
    new = view.line_begins
    new[1:] |= view.classes[words.end[:-1] - 1] & PIECE_END > 0
    piece = np.cumsum(new) - 1
    marked = np.zeros(piece[-1] + 1, np.bool_)
    marked[piece[_words_of(view, view.tokens.start[first])]] = True
    return share(view.per_document(words.doc[marked[piece]]), number) * (number >= 12)


def _implausible_words(view: View) -> Floats:
    """Share of the Latin words (four letters and more, not all capitals) that no language writes: from four words on."""
    tokens = view.tokens
    has = np.bitwise_or.reduceat(view.classes, tokens.start) if len(tokens) else np.empty(0, np.uint16)  # what parts tokens adds nothing
    latin = (tokens.length >= 4) & (view.codes[tokens.start] < 0x250) & (has & (NO_LETTER | NO_CAPITAL) == NO_CAPITAL)
    strange = has & VOWEL == 0
    for positions in (_runs_of(view.is_a(CONSONANT), 6), _runs_of(view.is_a(PLAIN_VOWEL), 5), _rare_pairs(view)):
        strange[np.searchsorted(tokens.start, positions, side="right") - 1] = True
    number = view.per_document(tokens.doc, latin)
    return share(view.per_document(tokens.doc, latin & strange), number) * (number >= 4)


def _runs_of(mask: Bools, length: int) -> Ints:
    """Where `length` marked characters in a row begin."""
    run = mask
    for _ in range(length - 1):
        run = run[:-1] & mask[len(mask) - len(run) + 1 :]
    return np.flatnonzero(run)


def _rare_pairs(view: View) -> Ints:
    """Where a pair of letters begins that stands in hardly any word."""
    seldom = view.is_a(SELDOM)
    at = np.flatnonzero(seldom[:-1] | seldom[1:])
    pairs = (view.codes[at] | 0x20).astype(np.int64) << 21 | (view.codes[at + 1] | 0x20)
    return at[np.isin(pairs, [ord(pair[0]) << 21 | ord(pair[1]) for pair in _RARE_PAIRS])]
