"""The columns that no stage knows: they arrive under their names and types, never mixed up with ours, and without personal data."""

from __future__ import annotations

import csv
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.carry import Carried, side_by_side
from llm_pipeline.curation.curate import curate
from llm_pipeline.curation.files import ROWS, Corpus
from llm_pipeline.curation.scrubbing_columns import scrub_columns
from llm_pipeline.errors import InputError
from llm_pipeline_tests.curation.test_cli import run
from llm_pipeline_tests.curation.test_curate import LEAK, TOPICS, prose
from llm_pipeline_tests.curation.test_pii import POLICY, pieces

NESTED = pa.struct([pa.field("who", pa.string()), pa.field("seen", pa.list_(pa.timestamp("us")))])


def typed(n: int) -> pa.Table:
    """Documents with a column of every kind that a Parquet file may have."""
    at = datetime(2026, 1, 3, 12, 30)
    return pa.table(
        {
            "views": pa.array(range(n), pa.int32()),
            "id": [f"d{i}" for i in range(n)],
            "price": pa.array([Decimal("1.50")] * n, pa.decimal128(8, 2)),
            "text": [prose(TOPICS[i % len(TOPICS)], i) for i in range(n)],
            "tags": pa.array([["a", "b"], None, []] * n, pa.list_(pa.string())).slice(0, n),
            "info": pa.array([{"who": "me", "seen": [at]}] * n, NESTED),
            "shelf": pa.array(["north", "south"] * n, pa.dictionary(pa.int8(), pa.string())).slice(0, n),
            "raw": pa.array([b"\xff\x00"] * n, pa.binary()),
            "made": pa.array([date(2026, 1, 3)] * n, pa.date32()),
            "counts": pa.array([[("x", 1)]] * n, pa.map_(pa.string(), pa.int64())),
        }
    )


@pytest.mark.parametrize("folder", [False, True])
def test_curate_carries_every_type_of_parquet(tmp_path: Path, folder: bool) -> None:
    rows = typed(7)
    (tmp_path / "in").mkdir()
    pq.write_table(rows.slice(0, 4), tmp_path / "in" / "a.parquet")
    pq.write_table(rows.slice(4), tmp_path / "in" / "b.parquet")
    pq.write_table(rows, tmp_path / "one.parquet")
    curate(tmp_path / "in" if folder else tmp_path / "one.parquet", tmp_path / "out")
    made = pq.read_table(tmp_path / "out" / "documents.parquet")
    carried = [name for name in rows.column_names if name not in ("id", "text")]
    assert made.column_names[-len(carried) :] == carried
    assert made["external_id"].to_pylist() == rows["id"].to_pylist()
    for name in carried:
        assert made.schema.field(name).type == rows.schema.field(name).type
        assert made[name].to_pylist() == rows[name].to_pylist(), name


def test_curate_carries_rows_of_any_files_and_renames_what_clashes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows: list[dict[str, Any]] = [{"id": topic, "text": prose(topic)} for topic in TOPICS[:3]]
    rows[0] |= {"stars": 3, "nested": {"k": [1]}, "language": "klingon", "cluster_id": "mine", "input_language": "taken"}
    rows[1] |= {"stars": 2.5, "nested": "plain"}
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "b.csv").open("w") as file:
        csv.writer(file).writerows([["id", "text", "shelf"], ["c", prose("towers"), "07"]])
    (folder / "note.txt").write_text(prose("mills"))
    curate(folder, tmp_path / "out")
    made = {row["external_id"]: row for row in pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()}
    assert set(made) == {*TOPICS[:3], "c", "note"}
    assert [made[topic]["stars"] for topic in TOPICS[:3]] == [3.0, 2.5, None]
    first = made[TOPICS[0]]
    assert (first["nested"], first["input_input_language"], first["input_language"]) == ('{"k": [1]}', "klingon", "taken")
    assert (first["language"], first["input_cluster_id"]) == ("en", "mine")
    assert (made["c"]["shelf"], made["note"]["shelf"], made["c"]["stars"]) == ("07", None, None)


def test_what_curate_carries_is_scrubbed_and_in_the_ledger(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "text": prose("mills"),
        "email": "jane.roe@example.org",
        "card": 4111111111111111,
        "meta": {"contact": {"phone": "+44 20 7946 0958", "list": [1, "GB82 WEST 1234 5698 7654 32"]}},
        "views": 120,
    }
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    curate(tmp_path / "in.jsonl", tmp_path / "out")
    [made] = pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()
    assert (made["email"], made["card"], made["views"]) == ("[EMAIL_ADDRESS]", None, 120)
    assert json.loads(made["meta"]) == {"contact": {"phone": "[PHONE_NUMBER]", "list": [1, "[IBAN_CODE]"]}}
    ledger = pq.read_table(tmp_path / "out" / "ledger.parquet").to_pylist()
    assert {row["detail"] for row in ledger if row["rule"] == "pii_column"} == {"1 x in email", "1 x in card", "2 x in meta"}
    assert {row["id"] for row in ledger if row["rule"] == "pii_column"} == {made["id"]}


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl", "in.csv"])
def test_verdicts_carry_all_but_the_text(tmp_path: Path, name: str) -> None:
    columns = {"id": ["10", "20", "30"], "keep": ["x", "y", "z"], "text": [prose("mills"), prose("mills"), prose("towers") + " " + LEAK]}
    table = pa.table(columns | {"owner": ["ann", None, "cy"]})
    if name.endswith(".parquet"):
        pq.write_table(table, tmp_path / name)
    elif name.endswith(".jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        with (tmp_path / name).open("w") as file:
            csv.writer(file).writerows([table.column_names, *(row.values() for row in table.to_pylist())])
    (tmp_path / "suite.jsonl").write_text(json.dumps({"id": 7, "question": LEAK, "answer": "The second."}) + "\n")
    none = "" if name.endswith(".csv") else None
    for verb, first, against in (
        ("dedup", ["id", "cluster_id", "keep", "reason", "kept_id", "jaccard"], []),
        ("filter", ["id", "keep", "reason"], []),
        ("decontaminate", ["id", "keep", "matched_id", "overlap"], ["--against", tmp_path / "suite.jsonl"]),
    ):
        run(verb, tmp_path / name, *against, tmp_path / "out.parquet")
        made = pq.read_table(tmp_path / "out.parquet")
        assert made.column_names[: len(first)] == first
        assert made.column_names[-2:] == ["input_keep", "owner"]
        assert "text" not in made.column_names
        assert made["input_keep"].to_pylist() == ["x", "y", "z"]
        assert made["owner"].to_pylist() == ["ann", none, "cy"]
        assert set(made["keep"].to_pylist()) <= {True, False}


def test_scrub_writes_its_columns_first_and_scrubs_the_others(tmp_path: Path) -> None:
    rows = [{"who": "Maria Garcia", "text": "Nothing here.", "id": 1}, {"who": "nobody", "text": "me@example.org", "id": 2}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    summary = run("scrub", tmp_path / "in.parquet", tmp_path / "out.parquet", "--spans", tmp_path / "spans.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.column_names == ["id", "text", "who"]
    assert made["who"].to_pylist() == ["[PERSON]", "nobody"]
    assert (summary["columns"], summary["entities"]) == ({"who": 1}, {"EMAIL_ADDRESS": 1})
    assert [row["id"] for row in pq.read_table(tmp_path / "spans.parquet").to_pylist()] == [2]


def test_values_are_read_under_their_names(tmp_path: Path) -> None:
    kind = pa.struct([pa.field("passport", pa.string()), pa.field("shelf", pa.string())])
    columns: dict[str, Any] = {
        "id": ["a", "b"],
        "birthday": pa.array([date(1980, 2, 3), None]),
        "released": pa.array([date(1980, 2, 3), None]),
        "phone": pa.array([2025550123.0, None]),
        "box": pa.array([{"passport": "X1234567", "shelf": "X1234567"}, None], kind),
        "by": pa.array([[("me@example.org", "x")], []], pa.map_(pa.string(), pa.string())),
        "json": ['{"a@example.org": 1, "b@example.org": 2}', '{"escaped": "me\\u0040example.org"}'],
        "me@example.org": ["plain", "words"],
        "last": pa.array(["+44 20 7946 0958", "x"], pa.dictionary(pa.int8(), pa.string())),
    }
    table = pa.table(columns)
    made, changed = scrub_columns(table, table.column_names[1:], POLICY)
    rows = made.to_pylist()
    assert (rows[0]["birthday"], rows[0]["released"], rows[0]["phone"]) == (None, date(1980, 2, 3), None)
    assert rows[0]["box"] == {"passport": "[PASSPORT]", "shelf": "X1234567"}
    assert rows[0]["by"] == [("[EMAIL_ADDRESS]", "x")]
    assert json.loads(rows[0]["json"]) == {"[EMAIL_ADDRESS]": 1, "[EMAIL_ADDRESS]_": 2}
    assert json.loads(rows[1]["json"]) == {"escaped": "[EMAIL_ADDRESS]"}
    assert made["me@example.org"].to_pylist() == ["plain", "words"]
    assert made["last"].to_pylist() == ["[PHONE_NUMBER]", "x"]
    assert made.schema.field("last").type == table.schema.field("last").type
    assert (changed[0]["json"], changed[1]) == (2, {"json": 1})


values = st.recursive(
    st.one_of(pieces.map(" ".join), st.text(max_size=20), st.integers(), st.none()), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(pieces.map(" ".join), values.map(json.dumps), st.text(max_size=30)), max_size=50))
def test_scrubbed_columns_stay_as_they_are_when_scrubbed_again(cells: list[str]) -> None:
    table = pa.table({"id": [str(i) for i in range(len(cells))], "note": pa.array(cells, pa.string())})
    once, _ = scrub_columns(table, ["note"], POLICY)
    again, changed = scrub_columns(once, ["note"], POLICY)
    assert again["note"].to_pylist() == once["note"].to_pylist()
    assert not any(changed)


def test_what_cannot_be_read_is_not_carried_as_if_it_were_clean() -> None:
    table = pa.table({"id": ["a", "b"], "note": pa.array([b"\xff", b"fine"]).view(pa.string())})
    made, changed = scrub_columns(table, ["note"], POLICY)
    assert made["note"].to_pylist() == [None, "fine"]
    assert changed == [{"note": 1}, {}]


def test_names_never_clash() -> None:
    schema = pa.schema([(name, pa.int8()) for name in ("id", "keep", "input_keep", "other")])
    assert Carried.of(schema, ["id", "keep"], ["id"]).called == ["input_input_keep", "input_keep", "other"]
    assert Carried.of(schema, ["id", "input_keep"], ["id"]).called == ["keep", "input_input_keep", "other"]


@given(st.lists(st.integers(0, 4), max_size=6), st.lists(st.integers(0, 4), max_size=6))
def test_rows_find_their_verdicts_however_both_are_cut(ours: list[int], theirs: list[int]) -> None:
    n = min(sum(ours), sum(theirs))

    def cut(sizes: list[int]) -> list[pa.Table]:
        tables, at = [], 0
        for size in [*sizes, n]:
            tables.append(pa.table({"n": pa.array(range(at, min(n, at + size)), pa.int64())}))
            at = min(n, at + size)
        return tables

    for table, verdicts in side_by_side(iter(cut(ours)), iter(cut(theirs))):
        assert table.equals(verdicts)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["x"]), pa.array([1]), pa.array([2])], names=["id", "text", "n", "n"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputError, match="several columns are called n"):
        next(Corpus(tmp_path / "in.parquet")())
    summary = curate(tmp_path / "in.parquet", tmp_path / "out")
    assert summary["rules"] == {"documents/repeated_column": 1}


def test_a_folder_of_parquet_keeps_types_over_many_tables(tmp_path: Path) -> None:
    for part in range(2):
        rows = {
            "id": [f"{part}-{i}" for i in range(ROWS)],
            "text": ["x"] * ROWS,
            "n": pa.array(range(ROWS), pa.int16() if part else pa.int32()),
        }
        pq.write_table(pa.table(rows), tmp_path / f"{part}.parquet")
    corpus = Corpus(tmp_path)
    tables = list(corpus())
    assert {table.schema.field("n").type for table in tables} == {pa.int32()}
    assert pa.concat_tables(tables)["n"].to_pylist() == [*range(ROWS)] * 2
