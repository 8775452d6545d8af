"""Chunks keep the text, respect the limit, and keep their ids where the text did not change."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.retrieval.chunking import KINDS, SCHEMA, chunk_document, chunk_table, indexed_text, minilm_counter


def document(text: str, title: str = "", kind: str = "article", uri: str = "u") -> dict[str, object]:
    return {"id": "d", "uri": uri, "external_id": None, "kind": kind, "source": "s", "title": title, "text": text}


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=600), st.text(max_size=40), st.integers(12, 60))
def test_nothing_is_lost_and_the_limit_holds(text: str, title: str, limit: int) -> None:
    chunks = list(chunk_document(document(text, f"Title of {title}"), minilm_counter(), limit))
    assert "".join("".join(c.text.split()) for c in chunks) == "".join(text.split())
    assert [c.position for c in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert minilm_counter()([chunk.text])[0] <= limit + chunk.text.count("\n")


def test_a_heading_opens_a_chunk_and_stays_with_what_follows() -> None:
    text = "# Fees\n\nThe fee is $5.\n\n## Limits\n\nThe limit is 3.\n\n### Deep\n\n#### Deeper\n\nYes."
    assert [c.text for c in chunk_document(document(text), minilm_counter())] == [
        "# Fees\nThe fee is $5.",
        "## Limits\nThe limit is 3.",
        "### Deep\n#### Deeper\nYes.",
    ]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    sentences = [f"Sentence number {i} says something." for i in range(40)]
    chunks = list(chunk_document(document(" ".join(sentences), "A title"), minilm_counter()))
    assert len(chunks) > 1
    assert all(c.tokens <= 160 and c.text.endswith(".") for c in chunks)
    assert [line for c in chunks for line in c.text.split("\n")] == sentences


def test_ids_are_stable_where_the_text_is() -> None:
    long = "\n\n".join(f"# Part {i}\n\nText of part {i}." for i in range(4))
    before = [c.id for c in chunk_document(document(long), minilm_counter())]
    after = [c.id for c in chunk_document(document(long.replace("Text of part 2", "New text")), minilm_counter())]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]
    assert len(set(before)) == 4


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
