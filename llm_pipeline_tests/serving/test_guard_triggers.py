"""The sieve before the guardrails' patterns passes everything that they would find."""

import re

from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.serving.guardrails import disguise
from llm_pipeline.serving.guardrails.spans import KINDS, folded
from llm_pipeline.serving.guardrails.triggers import triggered
from llm_pipeline.sieve import Sieve

EVERY = [(f"output:{name}", kind) for name, kind in KINDS.items()]
PIECES = [
    *(
        "@",
        "-----",
        "1",
        "23",
        "4 5-6",
        "٣",
        "۴۵",
        "𞥐",
        "²",
        "de12",
        "api",
        "xapi",
        "éapi",
        "key",
        "token",
        "password",
        "<a",
        "<",
        "</",
        "![",
    ),
    *("data:", "javascript", ";", "'", '"', ")", " or ", "\x1cand", "or\u2003", "xp_", "union", "unions", "waitfor", "/dev/", ":()", "$("),
    *(
        "; cat",
        "&\u00a0cat",
        "|cats",
        "rm",
        "rm ",
        "arm",
        "éurl curl",
        "dd",
        "nc",
        "\x1b",
        "\x9b",
        "\u200b",
        "\u202e",
        "\U000e0041",
        "\u00ad",
    ),
    *("ſecret", "acceſſ", "İ", "ı", "ordinary words", " ", "\n", ".", "a", "é", "漢", "_", "-", "abcdefghijklmno", "\ud800"),
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12))
def test_every_trigger_in_a_text_is_found(pieces: list[str]) -> None:
    text = folded("".join(pieces))
    assert triggered(EVERY, text) == [(rule, kind) for rule, kind in EVERY if kind.trigger.search(text)]


def test_only_the_kinds_that_are_asked_for_are_named() -> None:
    text = "write to a@b.example or 1 2 3 4 5 6 7 8 9"
    assert [rule for rule, _ in triggered(EVERY, text)] == ["output:email", "output:card"]
    assert triggered([("input:email", KINDS["email"])], text) == [("input:email", KINDS["email"])]
    assert triggered(EVERY, "What does the account cost a student who travels?") == []


def test_a_sieve_says_which_patterns_a_text_holds() -> None:
    patterns = ["b+", "^a", "c$", "[0-9]{3}"]
    sieve = Sieve(patterns)
    for text in ("", "abbb", "cab", "c", "a1234c", "é123\nc"):
        assert sorted(sieve.held(text)) == [i for i, pattern in enumerate(patterns) if re.search(pattern, text)]


LETTERS = st.text("abefgzAF012 49@$:._-*\\%/+=_é", max_size=60) | st.lists(
    st.sampled_from(["4cc", "0unt", "a b c d e", "69 6e", "aGVs"])
).map("".join)


@given(LETTERS)
def test_what_stands_before_a_search_for_hidden_words_finds_as_much(text: str) -> None:
    assert disguise._GAPS.search(text) or not disguise._SPACED.search(text)
    assert disguise._PAIRS.search(text) or not disguise._HEX.search(text)
    assert max(map(len, text.split()), default=0) > 15 or not disguise._BASE64.search(text)
    assert not text.isascii() or len(disguise._MIXED.findall(text)) >= len(disguise._LEETED.findall(text))
