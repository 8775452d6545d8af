"""Languages by the bundled model: right on real passages, undetermined without letters, and never an error on any string."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.curation.language import UNDETERMINED, identify


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The card that you ordered has not arrived yet.", "en"),
        ("Die Karte, die Sie bestellt haben, ist noch nicht angekommen.", "de"),
        ("La tarjeta que pidió todavía no ha llegado.", "es"),
        ("Карта, которую вы заказали, ещё не пришла.", "ru"),
        ("您订购的卡还没有到。", "zh"),
        ("注文したカードがまだ届いていません。", "ja"),
    ],
)
def test_sentences(text: str, language: str) -> None:
    ((found, score),) = identify([text])
    assert found == language
    assert 0.3 < score <= 1.0


def test_what_is_no_language_is_looked_through() -> None:
    noisy = "Customer: https://example.org/the/of/and/that <br class='the'>\n\nIch habe meine Karte verloren und brauche schnell eine neue."
    assert identify([noisy])[0][0] == "de"


def test_an_unsure_beginning_gets_a_second_look() -> None:
    text = (
        "SKU 4711 / B-52 / QX-9 / TR-808 / KR-55 / MX-5 / DX7 / JX-8P / SH-101 / TB-303 "
        + "Das Gerät wird mit allen Kabeln geliefert. " * 6
    )
    assert identify([text])[0][0] == "de"


@pytest.mark.parametrize("text", ["", "  \n", "123 456", "\0", "!!! ??? …"])
def test_no_letters_no_language(text: str) -> None:
    assert identify([text]) == [UNDETERMINED]


@given(st.lists(st.text(st.characters(), max_size=300), max_size=5))
def test_any_strings_have_one_answer_each_that_does_not_depend_on_the_others(texts: list[str]) -> None:
    found = identify(texts)
    assert found == [identify([text])[0] for text in texts]
    assert all(language and 0.0 <= score <= 1.0 for language, score in found)


def test_real_passages(xquad: Path) -> None:
    lines = {code: (xquad / f"{code}_passages.jsonl").read_text("utf-8").splitlines() for code in ("en", "de", "es")}
    for code, rows in lines.items():
        found = identify([json.loads(row)["text"] for row in rows])
        assert sum(language == code for language, _ in found) >= 0.99 * len(rows)
