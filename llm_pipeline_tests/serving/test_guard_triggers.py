"""The sieve before the guardrails' patterns passes everything that they would find."""

import re

from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.serving.guardrails import build_policy, disguise, load_policy
from llm_pipeline.serving.guardrails.disguise import letters
from llm_pipeline.serving.guardrails.spans import KINDS, folded
from llm_pipeline.serving.guardrails.triggers import triggered
from llm_pipeline.serving.traffic.release import POLICY
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
    patterns = ["b+", "^a", r"c\x00", "[0-9]{3}"]
    sieve = Sieve(patterns)
    for text in ("", "abbb", "cab", "c", "a1234c", "é123\nc"):
        assert sorted(sieve.held(text)) == [i for i, pattern in enumerate(patterns) if re.search(pattern, text + "\0")]


LETTERS = st.text("abefgzAF012 49@$:._-*\\%/+=_é", max_size=60) | st.lists(
    st.sampled_from(["4cc", "0unt", "a b c d e", "69 6e", "aGVs"])
).map("".join)


@given(LETTERS)
def test_what_stands_before_a_search_for_hidden_words_finds_as_much(text: str) -> None:
    assert disguise._GAPS.search(text) or not disguise._SPACED.search(text)
    assert disguise._PAIRS.search(text) or not disguise._HEX.search(text)
    assert max(map(len, text.split()), default=0) > 15 or not disguise._BASE64.search(text)
    assert not text.isascii() or len(disguise._MIXED.findall(text)) >= len(disguise._LEETED.findall(text))


ORDERS = st.sampled_from(
    [
        *("ignore", "Disregard", "all", "previous", "your", "rules", "instructions", "reveal", "system", "prompt", "act as", "dan"),
        *("<|user|>", "[/INST]", "decode", "base64", "then", "execute", "enable", "god mode", "cafe", "caf\u00e9", "x" * 30),
        *("\x1c", "\n", ".", "\u017f", "poker", "bets"),
    ]
)
RULES = {
    **load_policy(POLICY).injection,
    **{"odd": r"ignore\w{,3}\sall", "accent": r"caf\u00e9?", "behind": r"(?<!your )rules", "again": r"(x+)\1", "end": r"rules$"},
}


@given(st.lists(ORDERS | st.just(" "), max_size=14), st.booleans())
def test_the_sieve_before_a_policys_patterns_changes_no_verdict(words: list[str], spaced: bool) -> None:
    text = (" " if spaced else "").join(words)
    expected = [f"input:{name}" for name, pattern in RULES.items() if re.search(pattern, letters(text), re.I | re.S)]
    assert MANY.check_input([{"role": "user", "content": text}]) == expected


def test_patterns_that_no_sieve_understands_are_searched_as_before() -> None:
    policy = build_policy({"injection": {"unicode": r"\u0061bc", "plain": "def"}, "topics": {"games": r"\bpoker\b"}})
    messages = [{"role": "user", "content": "ABC def Poker"}]
    assert policy.check_input(messages) == ["input:unicode", "input:plain", "input:topic_games"]
    assert policy.check_input(messages, attacks=False) == ["input:topic_games"]


MANY = build_policy({"injection": RULES, "hidden_unicode": False})
