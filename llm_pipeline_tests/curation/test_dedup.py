"""Deduplication: exact and near, independent of order and cutting, and every removed document has a kept twin."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.dedup import SCHEMA, THRESHOLD, Forest, dedup_batches
from llm_pipeline.curation.dedup_shingles import Shingles
from llm_pipeline.curation.dedup_sketches import Bands, licence_rank
from llm_pipeline.curation.signatures import jaccard, normalise, shingles, sign
from llm_pipeline.errors import ContractError, InputError

WORDS = [f"word{i}" for i in range(400)]
Row = dict[str, Any]


def run(rows: Sequence[Row] | pa.Table, threshold: float = THRESHOLD, cut: int = 7) -> list[Row]:
    empty = pa.schema({"id": pa.string(), "text": pa.string()}).empty_table()
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows)) if rows else empty

    def batches() -> Iterator[pa.Table]:
        yield from (table.slice(start, cut) for start in range(0, table.num_rows, cut))

    with tempfile.TemporaryDirectory() as scratch:
        found = list(dedup_batches(batches, threshold=threshold, scratch=Path(scratch)))
        assert list(Path(scratch).iterdir()) == []
    return pa.concat_tables([SCHEMA.empty_table(), *found]).to_pylist()


def verdicts(texts: dict[str, str], threshold: float = THRESHOLD) -> dict[str, Row]:
    """By id; an id is `<day>/<name>`."""
    rows = [{"id": name, "text": text, "day": name.split("/")[0]} for name, text in texts.items()]
    return {verdict["id"]: verdict for verdict in run(rows, threshold)}


def similarity(a: str, b: str) -> float:
    return jaccard(shingles(normalise(a)), shingles(normalise(b)))


def story(seed: int, n: int = 60) -> list[str]:
    return random.Random(seed).choices(WORDS, k=n)


def test_exact_and_near_copies_name_the_earliest_kept_twin() -> None:
    base = story(1)
    near = [*base[:-1], "changed"]
    found = verdicts({"2/b": " ".join(base).upper() + "!", "1/a": " ".join(base), "3/c": " ".join(near), "1/z": " ".join(story(2))})
    assert {name: (v["keep"], v["reason"], v["kept_id"], v["cluster_id"]) for name, v in found.items()} == {
        "1/a": (True, "kept", None, "1/a"),
        "2/b": (False, "exact_duplicate", "1/a", "1/a"),
        "3/c": (False, "near_duplicate", "1/a", "1/a"),
        "1/z": (True, "kept", None, "1/z"),
    }
    assert found["3/c"]["jaccard"] == similarity(" ".join(base), " ".join(near))
    assert (found["1/a"]["jaccard"], found["2/b"]["jaccard"]) == (None, 1.0)


def test_the_copy_that_stays_is_the_earliest_then_the_freest_then_the_longest_then_the_smallest_id() -> None:
    text = " ".join(story(4))
    rows: list[Row] = [
        {"id": "d", "day": "2026-01-02", "licence": "CC0-1.0", "text": text + "   !!"},
        {"id": "c", "day": "2026-01-01", "licence": None, "text": text + "   !!!"},
        {"id": "b", "day": "2026-01-01", "licence": "Apache-2.0", "text": text},
        {"id": "y", "day": "2026-01-01", "licence": "MIT", "text": text + "!"},
        {"id": "x", "day": "2026-01-01", "licence": "MIT", "text": text + "?"},
    ]
    while rows:
        best = rows[-1]["id"]
        assert [v["id"] for v in run(rows) if v["keep"]] == [best]
        rows = [row for row in rows if row["id"] != best]
        rows.sort(key=lambda row: "dcbyx".index(row["id"]))
    assert licence_rank("CC-BY-4.0") < licence_rank("CC-BY-SA-4.0") < licence_rank("CC BY-NC 4.0") < licence_rank("own") < licence_rank(" ")


def test_the_end_of_a_chain_that_matches_no_kept_document_stays() -> None:
    base = story(3, 80)
    texts = {f"{k}/x": " ".join([*base[8 * k :], *story(100, 8 * k)]) for k in range(5)}
    found = verdicts(texts)
    for name, verdict in found.items():
        if verdict["kept_id"]:
            assert found[verdict["kept_id"]]["keep"]
            assert similarity(texts[name], texts[verdict["kept_id"]]) >= THRESHOLD
    assert sum(v["keep"] for v in found.values()) > 1
    assert any(not v["keep"] for v in found.values())


def test_empty_and_short_texts() -> None:
    found = verdicts({"1/a": "", "1/b": "...", "1/c": "hi!", "1/d": "Hi", "1/e": "a b c d", "1/f": "a b c e"})
    assert [name for name, v in found.items() if not v["keep"]] == ["1/d"]


def test_every_row_has_a_verdict_even_where_ids_repeat_and_texts_are_missing() -> None:
    rows: list[Row] = [
        {"id": "a", "text": "one two three"},
        {"id": "a", "text": "one two three"},
        {"id": "b", "text": None},
        {"id": "a", "text": "other"},
    ]
    assert [(v["id"], v["reason"]) for v in run(rows, cut=2)] == [
        ("a", "kept"),
        ("a", "exact_duplicate"),
        ("b", "kept"),
        ("a", "kept"),
    ]
    assert run([]) == []


def test_columns_of_other_types_and_meanings_do_no_harm() -> None:
    rows: list[Row] = [
        {"id": i, "text": "one two", "signature": "def f()", "day": date(2026, 1, 3 - i), "licence": {"name": "MIT"}} for i in range(3)
    ]
    assert [(v["id"], v["kept_id"]) for v in run(rows)] == [("0", "2"), ("1", "2"), ("2", None)]


@pytest.mark.parametrize(("threshold", "semantic"), [(0.49, None), (1.01, None), (float("nan"), None), (0.7, 0.0), (0.7, 1.5)])
def test_thresholds_that_mean_nothing_are_refused_before_anything_is_read(threshold: float, semantic: float | None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a (Jaccard similarity|cosine)"):
        dedup_batches(lambda: iter(()), threshold=threshold, semantic=semantic, scratch=tmp_path)


edits = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(edits, st.integers(1, 12), st.randoms(use_true_random=False))
def test_nothing_depends_on_the_order_of_rows_or_days_or_on_how_they_are_cut(
    picks: list[tuple[int, int, int]], cut: int, r: random.Random
) -> None:
    rows = [
        {
            "id": f"{i:02d}",
            "day": f"{i % 4}",
            "licence": ["MIT", "own", None][free],
            "text": " ".join([*story(base)[edit:], *["more"] * edit]),
        }
        for i, (base, edit, free) in enumerate(picks)
    ]
    shuffled = list(rows)
    r.shuffle(shuffled)
    days = sorted(rows, key=lambda row: (r.random(), row["day"]))
    expected = {v["id"]: v for v in run(rows)}
    assert {v["id"]: v for v in run(shuffled, cut=cut)} == expected
    assert {v["id"]: v for v in run(days, cut=cut)} == expected


@settings(max_examples=25, deadline=None)
@given(edits, st.sampled_from([0.5, 0.62, 0.7, 0.85, 0.95, 1.0]))
def test_a_removed_document_always_resembles_a_kept_one_of_its_cluster(picks: list[tuple[int, int, int]], threshold: float) -> None:
    texts = {f"{i:02d}": " ".join([*story(base)[edit:], *["more"] * edit * 2]) for i, (base, edit, _) in enumerate(picks)}
    found = verdicts(texts, threshold)
    for name, verdict in found.items():
        if verdict["keep"]:
            assert (verdict["reason"], verdict["kept_id"]) == ("kept", None)
        else:
            kept = found[verdict["kept_id"]]
            assert (kept["keep"], kept["cluster_id"]) == (True, verdict["cluster_id"])
            assert verdict["jaccard"] == similarity(texts[name], texts[kept["id"]]) >= threshold
            assert (verdict["reason"] == "exact_duplicate") == (normalise(texts[name]) == normalise(texts[kept["id"]]))


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_pairs_above_the_threshold_are_found(threshold: float) -> None:
    r = random.Random(int(threshold * 100))
    texts: dict[str, str] = {}
    pairs = []
    for i in range(400):
        base = [f"{word}{i}" for word in story(i, r.randint(40, 160))]
        changed = [word if r.random() > (1 - threshold) / 12 else f"new{k}" for k, word in enumerate(base)]
        texts |= {f"1/{i}": " ".join(base), f"2/{i}": " ".join(changed)}
        if similarity(texts[f"1/{i}"], texts[f"2/{i}"]) >= threshold:
            pairs.append(i)
    found = verdicts(texts, threshold)
    assert len(pairs) > 200
    assert sum(found[f"2/{i}"]["kept_id"] == f"1/{i}" for i in pairs) >= 0.99 * len(pairs)


def test_bands_find_a_pair_exactly_at_the_threshold() -> None:
    assert Bands.of(THRESHOLD) == Bands(25, 5)
    for hundredth in range(50, 100):
        bands = Bands.of(hundredth / 100)
        assert 1 - (1 - (hundredth / 100) ** bands.rows) ** bands.number >= 0.989
    assert Bands.of(1.0) == Bands(1, 128)


def test_a_crowd_of_near_copies_is_one_cluster() -> None:
    base = story(5, 100)
    texts = {f"1/{i:03d}": " ".join([*base[:-1], f"end{i:03d}"]) for i in range(300)}
    found = verdicts(texts)
    assert [name for name, v in found.items() if v["keep"]] == ["1/000"]


@pytest.mark.parametrize(("part", "pairs"), [(20, 1), (50, 40)])
def test_nothing_depends_on_how_much_is_worked_on_at_a_time(part: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    r = random.Random(7)
    bases = [story(seed) for seed in range(20)]
    texts = [[*r.choice(bases)[: r.randint(45, 60)], *story(i, i % 3 * 4)] for i in range(150)] + 2 * [
        story(seed) for seed in range(50, 60)
    ]
    rows = [{"id": f"{i:03d}", "text": " ".join(text)} for i, text in enumerate(texts)]
    expected = run(rows)
    assert {row["reason"] for row in expected} == {"kept", "exact_duplicate", "near_duplicate"}
    monkeypatch.setattr("llm_pipeline.curation.dedup.PART", part)
    monkeypatch.setattr("llm_pipeline.curation.dedup.PAIRS", pairs)
    for name in ("_RUN", "_READ", "_REMEMBERED"):
        monkeypatch.setattr(f"llm_pipeline.curation.dedup_shingles.{name}", 100)
    assert run(rows) == expected


def test_shingles_of_any_rows_are_put_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_pipeline.curation.dedup_shingles._RUN", 40)
    monkeypatch.setattr("llm_pipeline.curation.dedup_shingles._READ", 70)
    r = random.Random(3)
    sets = [[r.randrange(30) for _ in range(r.choice([0, 1, 9, 200]))] for _ in range(60)]
    shingled = Shingles(tmp_path)
    for start in range(0, len(sets), 25):
        part = sets[start : start + 25]
        shingled.add(np.array([h for found in part for h in found], dtype=np.uint64), np.cumsum([0, *map(len, part)]))
    shingled.finish()
    for size in (0, 1, 30, 60):
        rows = r.sample(range(60), size)
        shingled.arrange(np.array(rows, dtype=np.int64), np.array([row % 7 for row in rows], dtype=np.int64))
        for a, b in zip(rows, rows[::-1], strict=True):
            union = {*sets[a], *sets[b]}
            assert shingled.jaccard(a, b) == (len({*sets[a]} & {*sets[b]}) / len(union) if union else 0)
    shingled.close()


def test_a_forest_joins_the_same_sets_at_once_and_one_by_one() -> None:
    r = random.Random(1)
    a, b = (np.array([r.randrange(200) for _ in range(150)]) for _ in range(2))
    at_once, singly = Forest(200), Forest(200)
    at_once.join(a, b)
    for left, right in zip(a.tolist(), b.tolist(), strict=True):
        singly.link(left, right)
    roots = at_once.roots(np.arange(200))
    assert roots.tolist() == [singly.root(node) for node in range(200)]
    assert all(np.flatnonzero(roots == root)[0] == root for root in set(roots.tolist()))


def test_stored_signatures_are_used_and_those_of_other_texts_are_refused(tmp_path: Path) -> None:
    texts = [" ".join(story(1)), " ".join([*story(1)[:-1], "end"]), " ".join(story(2))]
    signed = sign(["a", "b", "c"], texts)
    table = signed.append_column("text", pa.array(texts))
    assert run(table) == run(table.select(["id", "text"]))
    stale = signed.append_column("text", pa.array(texts[::-1]))
    with pytest.raises(ContractError, match="materialise `signatures`"):
        list(dedup_batches(lambda: iter([stale]), scratch=tmp_path))


def test_near_copies_in_a_script_without_spaces_are_found() -> None:
    text = "".join(chr(0x4E00 + i * 37 % 5000) for i in range(120))
    found = verdicts({"1/a": text, "2/b": text[:60] + "改" + text[61:], "3/c": text[::-1]})
    assert [v["reason"] for v in found.values()] == ["kept", "near_duplicate", "kept"]
