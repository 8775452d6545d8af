"""The scores of many texts at once equal a plain reading of their definitions, text by text, whatever the texts are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.quality_lexicon import lexicon
from llm_pipeline.curation.quality_repetition import first_of
from llm_pipeline.curation.quality_scores import NAMES, quality_scores
from llm_pipeline.curation.quality_view import View, hash_of

VOCABULARY = ["the", "The", "of", "and", "bank", "Card", "fee", "rhythm", "qwrtzpfg", "a1", "#", "...", "•", "-", "{x}", "lorem", "ipsum"]
VOCABULARY += [
    "javascript",
    "uses",
    "cookies",
    "Ñandú",
    "über",
    "…",
    "wait...",
    "end.",
    "why?",
    '"yes."',
    "NASA",
    "x" * 31,
    "a" * 40,
    "log",
    "in",
    "£5",
]
BETWEEN = st.sampled_from([" ", " ", " ", " ", "\n", "\n\n", " \n \n", "\t", ". ", "! ", " | "])
PROSE = st.lists(st.tuples(st.sampled_from(VOCABULARY), BETWEEN), max_size=90).map(lambda pairs: "".join(word + gap for word, gap in pairs))
LOOPS = st.tuples(PROSE, st.integers(1, 6)).map(lambda made: made[0] * made[1])
TEXTS = st.lists(st.one_of(PROSE, LOOPS, st.text(st.characters(codec="utf-8", exclude_categories=["Lo"]), max_size=60)), max_size=6)
STOP = {"the", "be", "to", "of", "and", "that", "have", "with"}
ENDS = ".!?…。！？؟।"
TERMINALS = ".!?\"'”’»…。！？؟।:"


def lower(text: str) -> str:
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def pieces_of(text: str) -> tuple[list[str], list[str]]:
    """Lines and paragraphs with words, stripped."""
    lines = [line.strip() for line in text.split("\n")]
    paragraphs: list[str] = []
    current: list[str] = []
    for raw, line in zip([*text.split("\n"), ""], [*lines, ""], strict=True):
        if line:
            current.append(raw)
        elif current:
            paragraphs.append("\n".join(current).strip())
            current = []
    return [line for line in lines if line], paragraphs


def unwrapped(text: str) -> list[str]:
    """Lines with words; a long one without an end goes on in the next line, when that begins with a small letter."""
    joined: list[str] = []
    before = ""
    for raw in text.split("\n"):
        line = raw.strip()
        if len(before) >= 40 and before[-1] not in TERMINALS and line[:1].isalpha() and not line[0].isupper():
            joined[-1] += f" {line}"
        elif line:
            joined.append(line)
        before = line
    return joined


def repeated(pieces: Sequence[str]) -> tuple[float, float]:
    seen: set[str] = set()
    again = [piece for piece in pieces if lower(piece) in seen or seen.add(lower(piece))]  # type: ignore[func-returns-value]
    total = sum(map(len, pieces))
    return (len(again) / len(pieces), sum(map(len, again)) / total) if pieces else (0.0, 0.0)


def top(tokens: Sequence[str], n: int) -> float:
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    return most * max(sum(map(len, gram)) for gram, k in counts.items() if k == most) / sum(map(len, tokens)) if most > 2 else 0.0


def duplicated(tokens: Sequence[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    at, characters = 0, 0
    while at + n <= len(tokens):
        gram = tuple(tokens[at : at + n])
        if gram in seen:
            characters += sum(map(len, gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return characters / sum(map(len, tokens)) if tokens else 0.0


def ends_sentence(word: str) -> bool:
    return word[-1] in ENDS or (len(word) > 1 and word[-2] in ENDS)


def reference(text: str) -> dict[str, float]:
    words, tokens = text.split(), re.findall(r"\w+", lower(text))
    lines, paragraphs = pieces_of(text)
    per_word = 1 / len(words) if words else 0.0
    per_line = 1 / len(lines) if lines else 0.0
    long_enough = len(tokens) >= 30
    scores: dict[str, float] = {
        "word_count": len(words),
        "mean_word_length": sum(map(len, words)) * per_word,
        "alphabetic_words": sum(any(c.isalpha() for c in word) for word in words) * per_word,
        "symbol_ratio": max(text.count("#"), text.count("...") + text.count("…")) * per_word,
        "bullet_lines": sum(line[0] in "-*•‣" for line in lines) * per_line,
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) * per_line,
        "stop_words": len(STOP & set(tokens)),
        "duplicate_lines": repeated(lines)[0] if len(lines) >= 4 else 0.0,
        "duplicate_line_characters": repeated(lines)[1],
        "duplicate_paragraphs": repeated(paragraphs)[0],
        "duplicate_paragraph_characters": repeated(paragraphs)[1],
        **{f"top_{n}_gram": top(tokens, n) if long_enough else 0.0 for n in (2, 3, 4)},
        **{f"duplicate_{n}_grams": duplicated(tokens, n) if long_enough else 0.0 for n in range(5, 11)},
        "unique_words": len(set(tokens)) / len(tokens) if long_enough else 1.0,
        "curly_brackets": text.count("{") + text.count("}"),
        "short_lines": sum(len(line) <= 30 for line in lines) * per_line,
        "newlines": text.count("\n") * per_word,
    }
    passages = unwrapped(text)
    retained = [
        line
        for line in passages
        if len(line.split()) >= 5
        and line[-1] in TERMINALS
        and not line.endswith(("...", "…"))
        and not re.search(r"\bjavascript\b|\buses\W+cookies\b", line, re.I)
    ]
    if len(passages) != 1:
        scores["sentences"] = sum(ends_sentence(word) for line in retained for word in line.split()) if passages else np.nan
        scores["punctuated_lines"] = sum(line[-1] in TERMINALS for line in passages) / len(passages) if passages else 0.0
    else:
        scores |= {"sentences": np.nan, "punctuated_lines": float(any(map(ends_sentence, words)))}
    return scores


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_scores_are_their_definitions(texts: list[str]) -> None:
    found = quality_scores(View(texts))
    assert tuple(found) == NAMES
    for at, text in enumerate(texts):
        expected = reference(text)
        got = {name: found[name][at] for name in expected}
        assert got == pytest.approx(expected, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(TEXTS, TEXTS)
def test_a_text_is_judged_alike_in_any_company(texts: list[str], others: list[str]) -> None:
    alone, among = quality_scores(View(texts)), quality_scores(View([*others, *texts]))
    for name in NAMES:
        np.testing.assert_allclose(among[name][len(others) :], alone[name], err_msg=name)


@given(st.lists(st.sampled_from(["a", "b", "cc", "ä", "漢", ""]), max_size=40))
def test_the_first_of_equal_keys(words: list[str]) -> None:
    keys = np.array([hash_of(word) for word in words], np.uint64)
    assert first_of(keys).tolist() == [words.index(word) for word in words]


@given(st.lists(PROSE, max_size=4), st.sampled_from(["the", "uses cookies", "of the bank", "lorem ipsum", "log in"]))
def test_phrases_are_found_wherever_their_words_follow_one_another(texts: list[str], phrase: str) -> None:
    pattern = re.compile(r"(?<!\w)(?=" + r"\W+".join(phrase.split()) + r"(?!\w))", re.I)
    assert lexicon((phrase, "never said")).counts(View(texts)).tolist() == [len(pattern.findall(text)) for text in texts]


@given(st.text(st.characters(codec="utf-8")))
def test_pieces_are_the_text(text: str) -> None:
    view = View([text, "other"])
    assert view.text(0) == text
    for pieces in (view.words, view.tokens, view.lines, view.paragraphs):
        assert (pieces.start < pieces.end).all()
        assert (pieces.start[1:] >= pieces.end[:-1]).all()


def test_scripts_without_spaces_are_counted_by_character() -> None:
    view = View(["漢字仮名交じり文", "สวัสดี", "한국어 문장"])
    assert view.per_document(view.words.doc).tolist() == [8.0, 6.0, 2.0]
