"""The corpus snapshot: which days, which documents, and why the others went."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.snapshot import build_snapshot, problems, window
from llm_pipeline.curation.sources import Source
from llm_pipeline.curation.suites import build_suites
from llm_pipeline.errors import ContractError, InputError, MissingError
from llm_pipeline.store import Home, write_jsonl
from llm_pipeline_tests.curation.lake import document, fill

LONG = " ".join(f"word{i}" for i in range(50))


def home(tmp_path: Path) -> Home:
    place = Home(tmp_path / "home")
    write_jsonl(
        tmp_path / "mine" / "qa.jsonl", [{"question": "Which river runs through the old town?", "answer": "the Spree", "passage_id": "p1"}]
    )
    build_suites(place, [Source("mine", "files", "x", "x", "x", uri=str(tmp_path / "mine"))])
    first = [
        document("2026-01-01", "fees", "The fee of the Harbor Card is $4.", "article"),
        document("2026-01-01", "note", LONG),
        document("2026-01-01", "leak", f"{LONG} other. Which river runs through the OLD town? the Spree"),
    ]
    second = [
        document("2026-01-02", "fees", "The fee of the Harbor Card is $5.", "article"),
        document("2026-01-02", "copy", LONG),
        document("2026-01-02", "near", f"{LONG} and more"),
        document("2026-01-02", "single", "Something else."),
    ]
    fill(place, {"2026-01-01": first, "2026-01-02": second})
    return place


def test_every_document_has_one_verdict(tmp_path: Path) -> None:
    place = home(tmp_path)
    made = build_snapshot(place)
    clusters = pq.read_table(made.file("clusters.parquet"))
    kept = pq.read_table(made.file("documents.parquet"))
    name = {row["id"]: f"{row['day'][-1]}/{row['external_id']}" for row in place.lake.read("scrubbed_documents").to_pylist()}
    reasons = {name[row["id"]]: (row["reason"], name.get(row["kept_id"]) or row["matched"]) for row in clusters.to_pylist()}
    assert reasons == {
        "1/fees": ("superseded", "2/fees"),
        "1/note": ("kept", None),
        "1/leak": ("contaminated", "qa/qa-0"),
        "2/fees": ("kept", None),
        "2/copy": ("exact_duplicate", "1/note"),
        "2/near": ("near_duplicate", "1/note"),
        "2/single": ("kept", None),
    }
    assert sorted(map(str, kept["external_id"].to_pylist())) == ["fees", "note", "single"]
    assert {"day", "cluster_id", "text", "messages"} <= set(kept.column_names)
    assert problems(clusters) == []
    assert made.info["reasons"]["kept"] == 3
    assert build_snapshot(place).reused


def test_the_window_takes_days_that_are_there(tmp_path: Path) -> None:
    place = home(tmp_path)
    assert window(place).days == ("2026-01-01", "2026-01-02")
    assert window(place, "2026-01-01").days == ("2026-01-01",)
    assert window(place, None, 1).days == ("2026-01-02",)
    assert window(place, "2026-01-08").days == ("2026-01-02",)
    with pytest.raises(MissingError, match="no documents from 2026-02"):
        window(place, "2026-02-09")
    with pytest.raises(InputError, match="ISO date"):
        window(place, "yesterday")
    with pytest.raises(InputError, match="window_days"):
        window(place, None, 0)
    with pytest.raises(MissingError, match="materialise"):
        window(Home(tmp_path / "empty"))


def test_a_changed_day_makes_another_snapshot_and_the_same_day_the_same(tmp_path: Path) -> None:
    place = home(tmp_path)
    before = build_snapshot(place)
    fill(place, {"2026-01-02": [document("2026-01-02", "single", "Something new.")]})
    after = build_snapshot(place)
    assert (after.id != before.id, after.reused) == (True, False)


picks = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12)


@settings(max_examples=10, deadline=None)
@given(picks, st.randoms(use_true_random=False))
def test_any_order_of_backfills_gives_the_same_snapshot(picks: list[tuple[int, int, int]], r: random.Random) -> None:
    days: dict[str, list[dict[str, object]]] = {}
    for i, (day, base, edit) in enumerate(picks):
        text = " ".join([*random.Random(base).choices([f"w{k}" for k in range(99)], k=40)[edit:], *["more"] * edit])
        row = document(f"2026-01-0{day}", f"k{i // 2}", text, "article" if base == 3 else "note")
        days.setdefault(row["day"], []).append(row)
    found = []
    for again in range(2):
        order = list(days)
        if again:
            r.shuffle(order)
        with tempfile.TemporaryDirectory() as folder:
            place = Home(Path(folder))
            for name in order:
                fill(place, {name: r.sample(days[name], len(days[name])) if again else days[name]})
            made = build_snapshot(place)
            clusters, kept = (pq.read_table(made.file(f"{name}.parquet")) for name in ("clusters", "documents"))
            assert kept["id"].to_pylist() == clusters.filter(clusters["keep"])["id"].to_pylist()
            assert problems(clusters) == []
            found.append(clusters.to_pylist())
    assert found[0] == found[1]


def test_documents_without_a_signature_are_an_error(tmp_path: Path) -> None:
    place = home(tmp_path)
    place.lake.replace("signatures", "2026-01-02", place.lake.read("signatures", ["2026-01-02"]).slice(1))
    with pytest.raises(ContractError, match="1 documents have no signature"):
        build_snapshot(place)


def test_a_duplicate_without_a_kept_twin_is_a_problem(tmp_path: Path) -> None:
    clusters = pq.read_table(build_snapshot(home(tmp_path)).file("clusters.parquet"))
    reasons = [row["reason"] for row in clusters.to_pylist()]
    only = clusters.filter([reason.endswith("duplicate") for reason in reasons])
    assert problems(only)[0] == "no document was kept"
    assert "name no kept twin" in problems(only)[1]
