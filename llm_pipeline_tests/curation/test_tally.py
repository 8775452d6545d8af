"""Counting whole datasets: right on any rows, and in memory that does not grow with their number."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.curation.heterogeneity import sample
from llm_pipeline.curation.ledger import LEDGER_SCHEMA, Entry, counts_by_rule, ledger_table, whole_ledger
from llm_pipeline.curation.snapshot import CLUSTERS
from llm_pipeline.curation.tally import batches, tally
from llm_pipeline.governance.data_card import build_data_card
from llm_pipeline.store import Home

A_DAY = 4000


@given(st.lists(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 2)), max_size=5), max_size=4))
def test_a_tally_is_a_count(parts: list[list[tuple[str | None, int]]]) -> None:
    tables = [
        pa.table({"x": pa.array([x for x, _ in rows], pa.string()), "y": pa.array([y for _, y in rows], pa.int64())}) for rows in parts
    ]
    assert tally(tables, "x", "y") == Counter(row for rows in parts for row in rows)


def lake(root: Path, days: int) -> Home:
    """A snapshot of some days with a ledger for each."""
    home, names = Home(root), [f"2026-01-{day:02}" for day in range(1, days + 1)]
    ids = [f"{i:016x}" for i in range(A_DAY)]
    for day in names:
        rows = ledger_table(day, [Entry(identity, f"file-{identity}", 1, "documents", "short", "removed", 1.0) for identity in ids])
        home.lake.replace("documents_ledger", day, rows)

    def make(folder: Path) -> dict[str, Any]:
        with pq.ParquetWriter(folder / "clusters.parquet", CLUSTERS) as clusters:
            for day in names:
                reasons = ["kept", "near_duplicate", "contaminated", "superseded"] * (A_DAY // 4)
                columns = {
                    "id": ids,
                    "day": [day] * A_DAY,
                    "cluster_id": ids,
                    "reason": reasons,
                    "keep": [reason == "kept" for reason in reasons],
                    "kept_id": [f"t{i}" if reason == "near_duplicate" else None for i, reason in enumerate(reasons)],
                    "matched": [f"q{i}" if reason == "contaminated" else None for i, reason in enumerate(reasons)],
                    "jaccard": [0.9 if reason == "near_duplicate" else None for reason in reasons],
                }
                clusters.write_table(pa.table({name: pa.array(columns[name], CLUSTERS.field(name).type) for name in CLUSTERS.names}))
        same = {"source": "s", "licence": "x", "kind": "doc", "language": "en"}
        pq.write_table(pa.table({name: [value] * (days * A_DAY // 4) for name, value in same.items()}), folder / "documents.parquet")
        return {}

    home.artifacts.build("corpus_snapshot", {"days": days}, make)
    return home


def peak(work: Callable[[], object]) -> int:
    """Bytes of Python objects that were alive at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("work", [build_data_card, whole_ledger])
def test_memory_does_not_grow_with_the_days(tmp_path: Path, work: Callable[[Home], object]) -> None:
    small, large = lake(tmp_path / "small", 2), lake(tmp_path / "large", 8)
    peak(lambda: work(lake(tmp_path / "first", 1)))  # what is imported and cached the first time
    assert peak(lambda: work(large)) < 1.5 * peak(lambda: work(small)) + 100_000


def test_the_ledger_says_what_the_snapshot_left_out(tmp_path: Path) -> None:
    home = lake(tmp_path, 2)
    rows = whole_ledger(home, ["2026-01-02"])
    assert rows.schema == LEDGER_SCHEMA
    assert counts_by_rule(rows)[0] == {"action": "removed", "rule": "short", "count": A_DAY}
    left = rows.slice(A_DAY, 3).to_pylist()
    assert [(row["rule"], row["detail"], row["score"]) for row in left] == [
        ("near_duplicate", "twin of t1", 0.9),
        ("contaminated", "holds q2", None),
        ("superseded", "", None),
    ]
    assert {(row["day"], row["stage"], row["action"]) for row in left} == {("2026-01-02", "corpus_snapshot", "removed")}
    assert whole_ledger(home).num_rows == 2 * (A_DAY + 3 * A_DAY // 4)


@pytest.mark.parametrize(("rows", "most"), [(0, 5), (3, 5), (5, 5), (9000, 7), (9001, 4500)])
def test_a_sample_is_evenly_spread(tmp_path: Path, rows: int, most: int) -> None:
    pq.write_table(pa.table({"n": pa.array(range(rows), pa.int64()), "other": pa.nulls(rows)}), tmp_path / "a.parquet")
    chosen = sample(tmp_path / "a.parquet", ["n"], most)["n"].to_pylist()
    assert chosen == [i * rows // min(rows, most) for i in range(min(rows, most))]
    assert sum(table.num_rows for table in batches(tmp_path / "a.parquet", "n")) == rows
