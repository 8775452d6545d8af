"""A key finds what it may see and nothing else, in vectors and in full text, whatever the labels are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_pipeline.retrieval.access import PUBLIC, Filters, condition, labels_of, may_see
from llm_pipeline.retrieval.chunking import SCHEMA
from llm_pipeline.retrieval.embedding import Embedder
from llm_pipeline.retrieval.index import build_generation
from llm_pipeline.retrieval.search import Mode, Searcher

LABELS = ("a", "b", "it's", "x', '*", "*", "ü] OR true --", '"')


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> tuple[Searcher, dict[str, list[str]]]:
    """Sixty passages about the same thing, each with some of the labels."""
    random = np.random.default_rng(0)
    labels = {f"c{i}": [name for name in LABELS if random.random() < 0.25] for i in range(60)}
    rows = [
        dict.fromkeys(("document_id", "uri"), identity)
        | {"id": identity, "external_id": None, "title": "", "text": f"The fee of card {identity} is due.", "position": 0, "tokens": 8}
        | {"source": f"s{i % 3}", "kind": ("doc", "note")[i % 2], "labels": mine}
        for i, (identity, mine) in enumerate(labels.items())
    ]
    folder = tmp_path_factory.mktemp("guarded")
    return Searcher(build_generation(folder, pa.Table.from_pylist(rows, schema=SCHEMA), embedder).path, embedder), labels


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.frozensets(st.sampled_from((*LABELS, "unknown")), max_size=3), st.sampled_from(("vector", "text", "hybrid")))
def test_a_key_finds_all_it_may_see_and_nothing_else(
    guarded: tuple[Searcher, dict[str, list[str]]], key: frozenset[str], mode: Mode
) -> None:
    searcher, labels = guarded
    found = {passage.id for passage in searcher.search("When is the fee of a card due?", 100, mode, key)}
    assert found == {identity for identity, mine in labels.items() if may_see(mine, key)}


def test_sources_and_kinds(guarded: tuple[Searcher, dict[str, list[str]]]) -> None:
    searcher, _ = guarded
    everyone = frozenset(LABELS)
    found = searcher.search("fee", 100, "hybrid", everyone, filters=Filters(frozenset({"s0", "s1"}), frozenset({"note"})))
    assert {passage.id for passage in found} == {f"c{i}" for i in range(60) if i % 3 < 2 and i % 2}
    assert not searcher.search("fee", 100, "hybrid", everyone, filters=Filters(frozenset({"s0') OR ('1'='1"})))


def test_what_may_not_be_seen_takes_no_place(guarded: tuple[Searcher, dict[str, list[str]]]) -> None:
    """The five best of what a key may see are found although better passages are hidden."""
    searcher, labels = guarded
    hidden = next(identity for identity, mine in labels.items() if mine and PUBLIC not in mine)
    question = f"The fee of card {hidden} is due."
    assert searcher.search(question, 1, "text", frozenset(labels[hidden]))[0].id == hidden
    for mode in ("vector", "text", "hybrid"):
        found = searcher.search(question, 5, mode)  # type: ignore[arg-type]
        assert len(found) == 5
        assert hidden not in {passage.id for passage in found}


@pytest.mark.parametrize(
    ("cell", "labels"), [(None, []), ("", []), ("a, b", ["a", "b"]), ('["b", "a"]', ["a", "b"]), (["x", "", "x"], ["x"])]
)
def test_labels_in_a_cell(cell: Any, labels: list[str]) -> None:
    assert labels_of(cell) == labels


def test_without_labels_nothing_is_asked() -> None:
    assert condition({"a"}, labelled=False) is None
    assert condition((), labelled=True) == "array_has_any(labels, ['*'])"
    assert condition({"o'x"}, Filters(kinds=frozenset({"doc"}))) == "array_has_any(labels, ['*', 'o''x']) AND kind IN ('doc')"


def test_an_index_without_labels_is_open_to_all(tmp_path: Path, embedder: Embedder) -> None:
    row = dict.fromkeys(SCHEMA.names, "x") | {"labels": None, "position": 0, "tokens": 1}
    searcher = Searcher(build_generation(tmp_path, pa.Table.from_pylist([row], schema=SCHEMA), embedder).path, embedder)
    assert not searcher.facts["labelled"]
    assert [passage.id for passage in searcher.search("x")] == ["x"]
