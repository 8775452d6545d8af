"""The sieve: it says where the matches of every pattern end, in characters, in any thread, and in little room."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.sieve import Sieve, places_of

PATTERNS = ("ab", "[0-9]{3}", "é[a-z]?", r"\bzo+", "(?i:cat|dog) x", "[A-Z][a-z]*", "x[0-9]+", "[xz][0-3]+", "[0-9]{2} ?[a-z]")
"""Read alike by Hyperscan and, with re.ASCII, by Python."""


def _ends(pattern: str, text: str) -> set[int]:
    """Where matches end, of every length and from every start."""
    compiled = re.compile(pattern, re.ASCII)
    return {end for start in range(len(text)) for end in range(start + 1, len(text) + 1) if compiled.fullmatch(text, start, end)}


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab0123é zocatCATDgx\U0001f600\ud800", max_size=50), st.sampled_from(["", "x7", "é x1", "zoo", "Cat", "12 a"]))
def test_every_end_lies_in_a_range_and_every_range_begins_and_ends_with_one(start: str, end: str) -> None:
    text = start + end
    places = places_of(PATTERNS).places(text)
    for number, pattern in enumerate(PATTERNS):
        ends, expected = list(places.get(number, ())), _ends(pattern, text)
        ranges = list(zip(ends[::2], ends[1::2], strict=True))
        assert all(any(first <= end <= last for first, last in ranges) for end in expected)
        assert expected.issuperset(ends)
        assert ranges == sorted(ranges)


def test_ends_are_counted_in_characters() -> None:
    assert list(Sieve(["b"], places=True).places("é\U0001f600b" + "é" * 9 + "b")[0]) == [3, 3, 13, 13]


def test_no_match_is_overlooked_near_the_end_of_a_text() -> None:
    """Where the library alone overlooks `x[0-9]+`."""
    held = Sieve(PATTERNS)
    assert all(6 in held.held("é" * i + " x7") for i in range(99))
    assert all(list(places_of(PATTERNS).places("é" * i + " x7")[6]) == [i + 3, i + 3] for i in range(99))


def test_the_end_of_a_text_is_a_zero_that_no_place_lies_behind() -> None:
    assert list(Sieve([r"[A-Z][^\s\x00]*[^\w\x00]*\x00"], places=True).places("Ann met Bob. \n")[0]) == [14, 14]
    assert list(Sieve(["é[^ ]*"], places=True).places("a é")[0]) == [3, 3]


def test_a_hostile_text_takes_little_room() -> None:
    places = Sieve(["a", "aa"], places=True).places("a" * 300_000)
    assert {number: list(ends) for number, ends in places.items()} == {0: [1, 300_000], 1: [2, 300_000]}


def test_threads_share_a_sieve() -> None:
    one, texts = Sieve(["x[0-9]+"], places=True), [f"{'é' * i} x{i}" for i in range(200)]
    alone = [list(one.places(text)[0]) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [list(places[0]) for places in pool.map(one.places, texts * 20)] == alone * 20
