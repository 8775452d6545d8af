from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.serving.engine.generation import Detokenizer


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def stream(text: str, stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    detokenizer, ids, pieces = Detokenizer(decode, stops), list(text.encode()), []
    for n in range(1, len(ids) + 1):
        pieces.append(detokenizer.feed(ids[:n], last=n == len(ids)))
        if detokenizer.stopped:
            break
    return pieces, detokenizer.stopped


@pytest.mark.parametrize("text", [" a fee of €4,400.90", "日本語 and 🏦", "  ", " x"])
def test_pieces_make_the_text_without_the_space_after_the_role(text: str) -> None:
    pieces, _ = stream(text)
    assert "".join(pieces) == text.lstrip()
    assert not any("�" in piece for piece in pieces)


@pytest.mark.parametrize(("stops", "expected"), [(["END"], "one "), (["two", "END"], "one END "), (["e E"], "on"), (["zzz"], None)])
def test_stop_strings_never_show(stops: list[str], expected: str | None) -> None:
    text = " one END two" if stops != ["two", "END"] else " one EN two"
    pieces, stopped = stream(text, stops)
    assert stopped == (expected is not None)
    assert "".join(pieces) == (text.lstrip() if expected is None else "one EN " if stops == ["two", "END"] else expected)


@given(
    text=st.text(alphabet="abE 日🏦", max_size=30),
    stops=st.lists(st.text(alphabet="abE 日", min_size=1, max_size=3), max_size=4),
    steps=st.lists(st.integers(1, 5), min_size=1, max_size=8),
)
def test_a_stop_string_never_leaks_however_the_tokens_arrive(text: str, stops: list[str], steps: list[int]) -> None:
    ids, detokenizer, shown, covered = list(text.encode()), Detokenizer(decode, stops, strip=False), "", 0
    at = i = 0
    while at < len(ids) and not detokenizer.stopped:
        at, i = at + steps[i % len(steps)], i + 1
        shown += detokenizer.feed(ids[:at], last=at >= len(ids))
        assert decode(ids[: detokenizer.covered()]).startswith(shown) or shown.startswith(decode(ids[: detokenizer.covered()]))
        assert detokenizer.covered() >= covered
        covered = detokenizer.covered()
    first = min((text.index(stop) for stop in stops if stop in text), default=None)
    assert shown == text[:first]
    assert detokenizer.stopped == (first is not None)


@pytest.mark.parametrize("stop", ["two", "o"])
def test_only_tokens_of_shown_text_are_covered(stop: str) -> None:
    ids, detokenizer = list(b"one two three"), Detokenizer(decode, [stop])
    shown = "".join(detokenizer.feed(ids[:n]) for n in range(1, 7) if not detokenizer.stopped)
    assert detokenizer.covered() == len(shown)
    if not detokenizer.stopped:
        detokenizer.feed(ids, last=True)
    assert detokenizer.stopped
    assert detokenizer.covered() == (4 if stop == "two" else 0)
