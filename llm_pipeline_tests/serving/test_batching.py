from collections.abc import Sequence

import pytest

from llm_pipeline.serving.batching import Detokenizer


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
