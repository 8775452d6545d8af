"""Chunks keep the text, respect the limit, and keep their ids where the text did not change."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.errors import ConfigError
from llm_pipeline.retrieval.chunking import (
    KINDS,
    SCHEMA,
    Sizes,
    chunk_document,
    chunk_spans,
    chunk_table,
    indexed_text,
    minilm_counter,
)
from llm_pipeline.retrieval.structure import format_of


def document(text: str, title: str = "", kind: str = "article", uri: str = "u") -> dict[str, object]:
    return {"id": "d", "uri": uri, "external_id": None, "kind": kind, "source": "s", "title": title, "text": text}


PIECES = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=80),
        st.sampled_from(
            [
                "# Part\n",
                "\n\n",
                "A word. ",
                "def f(x):\n    return x\n",
                "class A:\n    def m(self): ...\n",
                "```\n# no\n```\n",
                "- item\n",
            ]
        ),
    ),
    max_size=12,
).map("".join)
URIS = st.sampled_from(["notes.md", "x.py", "x.js", "plain"])


@settings(max_examples=150, deadline=None)
@given(PIECES, URIS, st.integers(4, 60), st.integers(0, 20), st.sampled_from([(0, 0), (1, 0), (3, 1), (4, 3)]))
def test_every_character_is_in_a_passage_and_none_is_too_long(
    text: str, uri: str, limit: int, overlap: int, window: tuple[int, int]
) -> None:
    sizes = Sizes(limit, min(overlap, limit // 2), *window)
    spans = chunk_spans(text, format_of(document(text, uri=uri)), minilm_counter(), sizes, limit)
    covered = {i for start, end in spans for i in range(start, end)}
    assert all(i in covered for i, letter in enumerate(text) if not letter.isspace())
    assert all(tokens <= limit for tokens in minilm_counter()([text[start:end] for start, end in spans]))
    assert all(a[0] < b[0] and a[1] < b[1] and b[0] < b[1] for a, b in pairwise(spans))
    if not any(window):
        for (_, before), (start, _) in pairwise(spans):
            assert minilm_counter()([text[start:before]])[0] <= sizes.overlap


@settings(max_examples=25, deadline=None)
@given(PIECES, st.text(max_size=40), st.integers(12, 60))
def test_the_title_counts_towards_the_size(text: str, title: str, limit: int) -> None:
    chunks = list(chunk_document(document(text, f"Title of {title}"), minilm_counter(), Sizes(limit)))
    assert [c.position for c in chunks] == list(range(len(chunks)))
    assert len({c.id for c in chunks}) == len(chunks)
    for chunk in chunks:
        assert chunk.tokens == sum(minilm_counter()([chunk.title, chunk.text])) <= limit


def test_a_heading_opens_a_chunk_and_stays_with_what_follows() -> None:
    text = "# Fees\n\nThe fee is $5.\n\n## Limits\n\nThe limit is 3.\n\n### Deep\n\n#### Deeper\n\nYes."
    assert [c.text for c in chunk_document(document(text), minilm_counter())] == [
        "# Fees\n\nThe fee is $5.",
        "## Limits\n\nThe limit is 3.",
        "### Deep\n\n#### Deeper\n\nYes.",
    ]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    sentences = [f"Sentence number {i} says something." for i in range(40)]
    chunks = list(chunk_document(document(" ".join(sentences), "A title"), minilm_counter()))
    assert len(chunks) > 1
    assert all(c.tokens <= 160 and c.text.endswith(".") for c in chunks)
    assert " ".join(c.text for c in chunks) == " ".join(sentences)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.text(st.characters(codec="utf-8", exclude_characters="#`~"), max_size=200), st.integers(0, 15), st.booleans())
def test_an_edit_changes_only_the_ids_of_its_section(part: int, new: str, overlap: int, more: bool) -> None:
    """Also when sections come and go before the others."""
    parts = [f"# Part {i}\n\n" + " ".join(f"Sentence {i}.{j} says it." for j in range(12)) + "\n\n" for i in range(4)]
    sizes = Sizes(40, overlap)
    before = [c.id for c in chunk_document(document("".join(parts)), minilm_counter(), sizes)]
    edited = [*parts[:part], f"# Part {part}\n\nEdited. {new}\n\n", *parts[part + 1 :]]
    if more:
        edited.insert(0, "# New\n\nNothing but this.\n\n")
    after = {c.id for c in chunk_document(document("".join(edited)), minilm_counter(), sizes)}
    lost = {c.id for c in chunk_document(document(parts[part]), minilm_counter(), sizes)}
    assert set(before) - after <= lost
    assert len(set(before)) == len(before)


def test_overlap_is_whole_words_up_to_its_size() -> None:
    text = " ".join(f"Sentence number {i} says something." for i in range(40))
    count = minilm_counter()
    spans = chunk_spans(text, "prose", count, Sizes(40, 10), 40)
    assert len(spans) > 3
    for (_, before), (start, _) in pairwise(spans):
        repeated = text[start:before]
        assert text[start - 1] == " "
        assert 8 <= count([repeated])[0] <= 10


def test_windows_of_sentences() -> None:
    text = " ".join(f"Sentence {i}." for i in range(7))
    windows = [text[start:end] for start, end in chunk_spans(text, "prose", minilm_counter(), Sizes(60, 0, 3, 1), 60)]
    assert windows == ["Sentence 0. Sentence 1. Sentence 2.", "Sentence 2. Sentence 3. Sentence 4.", "Sentence 4. Sentence 5. Sentence 6."]


PYTHON = '''"""Rates."""

import math

# Kept small on purpose.
@cache
def rate(years):
    return math.exp(-years)


class Account:
    """One account."""

    def fee(self):
        return 5

    # Never negative.
    def limit(self):
        return 3
'''


def test_python_is_cut_at_functions_and_classes() -> None:
    whole = [c.text for c in chunk_document(document(PYTHON, uri="a/rates.py"), minilm_counter(), Sizes(60))]
    assert [text.split("\n")[0] for text in whole] == ['"""Rates."""', "# Kept small on purpose.", "class Account:"]
    assert whole[1].endswith("return math.exp(-years)")
    small = [c.text for c in chunk_document(document(PYTHON, uri="a/rates.py"), minilm_counter(), Sizes(26))]
    assert small[-2:] == [
        'class Account:\n    """One account."""\n\n    def fee(self):\n        return 5',
        "# Never negative.\n    def limit(self):\n        return 3",
    ]
    broken = "def f(:\n\n\nclass"
    assert [c.text for c in chunk_document(document(broken, uri="x.py"), minilm_counter())] == [broken]


def test_other_code_is_cut_at_the_top_level() -> None:
    text = "function a() {\n  if (x) {\n    y();\n  }\n}\n\nfunction b() {\n  return 1;\n}\n"
    assert [c.text for c in chunk_document(document(text, uri="lib/x.js"), minilm_counter())] == [
        "function a() {\n  if (x) {\n    y();\n  }\n}",
        "function b() {\n  return 1;\n}",
    ]


def test_comments_in_fenced_code_are_no_headings() -> None:
    text = "# Use\n\n```\n# a comment\nrun\n```\n\n# Next\n\nDone."
    assert [c.text for c in chunk_document(document(text), minilm_counter())] == ["# Use\n\n```\n# a comment\nrun\n```", "# Next\n\nDone."]


def test_a_page_is_read_by_its_headings() -> None:
    page = (
        "<html><head><title>x</title><style>p {}</style></head><body><h1>Fees &amp; more</h1><p>The fee\n is <b>$5</b>.</p>"
        "<script>var hidden</script><h2>Limits</h2><ul><li>one</li><li>two</li></ul><pre># kept\n  as is</pre></body></html>"
    )
    assert [c.text for c in chunk_document(document(page, uri="http://x/a.html?q#f"), minilm_counter())] == [
        "# Fees & more\n\nThe fee is $5.",
        "## Limits\n\n- one\n- two\n\n```\n# kept\n  as is\n```",
    ]
    assert [c.text for c in chunk_document(document("Words < more.", uri="a.html"), minilm_counter())] == ["Words < more."]


@pytest.mark.parametrize(("sizes", "message"), [((20, 11), "expected 0 to 10, half"), ((20, 0, 2, 2), "expected 0 to 1, less than window")])
def test_sizes_that_cannot_be(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sizes(*sizes)


def test_labels_go_along() -> None:
    rows = [document("Some text.") | {"labels": ["crew"]}, document("Other text.", uri="v") | {"labels": None}]
    assert chunk_table(pa.Table.from_pylist(rows))["labels"].to_pylist() == [["crew"], []]


@pytest.mark.parametrize("kind", [*KINDS, "conversation"])
def test_only_documents_are_indexed(kind: str) -> None:
    rows = [document("Some text.", kind=kind), document("  ", kind=kind, uri="empty")]
    table = chunk_table(pa.Table.from_pylist(rows, pa.schema({name: pa.string() for name in rows[0]})))
    assert table.schema == SCHEMA
    assert table.num_rows == (kind in KINDS)


def test_the_title_is_searched_but_not_repeated() -> None:
    assert indexed_text("Fees", "It is $5.") == "Fees\nIt is $5."
    assert indexed_text("Fees", "FEES are $5.") == "FEES are $5."


def test_a_first_line_that_repeats_the_title_is_left_out() -> None:
    for text in ("# Fees\n\nIt is $5.", "FEES\nIt is $5."):
        assert [c.text for c in chunk_document(document(text, "Fees"), minilm_counter())] == ["It is $5."]
    assert [c.text for c in chunk_document(document("# Fees", "Fees"), minilm_counter())] == ["# Fees"]
