"""Deduplication: exact and near, independent of order, and every removed document has a kept twin."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.dedup import THRESHOLD, Item, Verdict, deduplicate
from llm_pipeline.curation.signatures import jaccard, normalise, shingles, sign, signature_matrix
from llm_pipeline.errors import InputError

WORDS = [f"word{i}" for i in range(400)]


def verdicts(texts: dict[str, str]) -> dict[str, Verdict]:
    """By id; keys order as (day, id), where an id is `<day>/<name>`."""
    table = sign(list(texts), list(texts.values()))
    hashes = [int(str(value)) for value in table["text_hash"].to_pylist()]
    items = [Item(id_, (id_.split("/")[0], id_), text, hash_) for (id_, text), hash_ in zip(texts.items(), hashes, strict=True)]
    return {verdict.id: verdict for verdict in deduplicate(items, signature_matrix(table))}


def story(seed: int, n: int = 60) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n)


def test_exact_and_near_copies_name_the_earliest_kept_twin() -> None:
    base = story(1)
    near = [*base[:-1], "changed"]
    found = verdicts({"2/b": " ".join(base).upper() + "!", "1/a": " ".join(base), "3/c": " ".join(near), "1/z": " ".join(story(2))})
    assert {name: (v.reason, v.kept_id) for name, v in found.items()} == {
        "1/a": ("kept", None),
        "2/b": ("exact_duplicate", "1/a"),
        "3/c": ("near_duplicate", "1/a"),
        "1/z": ("kept", None),
    }
    assert len({found[name].cluster_id for name in ("1/a", "2/b", "3/c")}) == 1


def test_the_end_of_a_chain_that_matches_no_kept_document_stays() -> None:
    base = story(3, 80)
    texts = {f"{k}/x": " ".join([*base[8 * k :], *story(100, 8 * k)]) for k in range(5)}
    found = verdicts(texts)
    for name, verdict in found.items():
        if verdict.kept_id:
            assert found[verdict.kept_id].keep
            assert jaccard(shingles(normalise(texts[name])), shingles(normalise(texts[verdict.kept_id]))) >= THRESHOLD
    assert sum(v.keep for v in found.values()) > 1
    assert any(not v.keep for v in found.values())


def test_empty_and_short_texts() -> None:
    found = verdicts({"1/a": "", "1/b": "...", "1/c": "hi", "1/d": "Hi!", "1/e": "a b c d", "1/f": "a b c e"})
    assert [name for name, v in found.items() if not v.keep] == ["1/d"]


def test_nothing_to_do() -> None:
    assert deduplicate([], np.empty((0, 128), np.uint32)) == []
    with pytest.raises(InputError, match="1 documents and 0 signatures"):
        deduplicate([Item("a", ("1",), "text", 1)], np.empty((0, 128), np.uint32))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_the_result_does_not_depend_on_the_order_of_rows_or_days(picks: list[tuple[int, int]], r: random.Random) -> None:
    texts = {f"{i % 4}/{i:02d}": " ".join([*story(base)[edit:], *["more"] * edit]) for i, (base, edit) in enumerate(picks)}
    shuffled = list(texts.items())
    r.shuffle(shuffled)
    assert verdicts(dict(shuffled)) == verdicts(texts)


def test_a_crowd_of_near_copies_costs_a_window_not_all_pairs() -> None:
    base = story(5, 100)
    texts = {f"1/{i:03d}": " ".join([*base[:-1], f"end{i}"]) for i in range(300)}
    found = verdicts(texts)
    assert [name for name, v in found.items() if v.keep] == ["1/000"]


def test_signature_of_text_without_words_is_marked() -> None:
    table = sign(["a", "b"], ["!!!", "one two three four five six"])
    assert table["text_hash"].to_pylist()[0] == 0
    assert set(signature_matrix(table)[0]) == {np.iinfo(np.uint32).max}
    assert sign([], []).num_rows == 0
