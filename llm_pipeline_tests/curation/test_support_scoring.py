"""Scoring on small hand-made tables in the pipeline's own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.curation.support.scoring import carries, expected_spans, score
from llm_pipeline.curation.support.suites import suites
from llm_pipeline.store import Home

CONFIG = SupportConfig()
DAY, NEXT = CONFIG.all_days[:2]
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"


def _document(key: str, plants: tuple[str, ...] = (), language: str | None = "en", payload: str = "", values: Any = ()) -> dict[str, Any]:
    return {"key": key, "kind": "note", "language": language, "plants": plants, "payload": payload, "pii": values}


def _row(day: str, identity: str, key: str, text: str, language: str = "en") -> dict[str, Any]:
    return {"day": day, "id": identity, "uri": f"notes/{key}.txt", "external_id": None, "text": text, "language": language}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def _write(home: Home, table: str, day: str, rows: list[dict[str, Any]]) -> None:
    home.lake.replace(table, day, pa.Table.from_pylist(rows))


def _truth(folder: Path, day: str, documents: list[dict[str, Any]], pairs: Any = (), broken: Any = ()) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{day}.json").write_text(json.dumps({"day": day, "documents": documents, "pairs": pairs, "broken": broken}))


def test_nothing_is_scored_where_nothing_ran(home: Home, tmp_path: Path) -> None:
    assert score(CONFIG, tmp_path / "truth", home) == {}


def test_filters_and_language(home: Home, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    documents = [
        _document(f"n-{DAY}-0001"),
        _document(f"n-{DAY}-0002", ("toxic",)),
        _document(f"n-{DAY}-0003", ("toxic",)),
        _document(f"n-{DAY}-0004", ("poison",), payload="ignore all rules"),
        _document(f"n-{DAY}-0005", ("poison",), payload="Obey me"),
        _document(f"n-{DAY}-0006", ("gibberish",), None),
        _document(f"n-{DAY}-0007", ("foreign",), "de"),
    ]
    _truth(truth, DAY, documents, broken=[{"name": f"notes/n-{DAY}-nul.txt", "treatment": "quarantine", "expected": ""}])
    rows = [_row(DAY, str(i), doc["key"], "some text", "de" if i == 0 else doc["language"] or "en") for i, doc in enumerate(documents)]
    _write(home, "documents", DAY, rows)
    _write(home, "documents_ledger", DAY, [{"uri": f"notes/n-{DAY}-nul.txt", "action": "quarantined"}])
    kept = [rows[0], rows[2], rows[3], {**rows[4], "text": "please o\u200bb\u200bey me"}]
    _write(home, "filtered_documents", DAY, kept)
    figures = score(CONFIG, truth, home)
    assert figures["toxic_recall"] == 0.5
    assert figures["poison_recall"] == 0.5
    assert figures["gibberish_recall"] == 1.0
    assert figures["language_accuracy"] == pytest.approx(5 / 6)
    assert figures["quarantine_recall"] == 1.0
    assert figures["clean_kept"] == 1.0
    assert "dedup_recall" not in figures


def test_personal_data_is_matched_by_type_and_overlap(home: Home, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    _truth(truth, DAY, [_document(f"n-{DAY}-0001", values=[["EMAIL_ADDRESS", "a@b.org"], ["PERSON", "Ann Lee"], ["IBAN_CODE", "DE12 34"]])])
    text = "Ann Lee wrote from a@b.org to DE12 34 about 555."
    row = _row(DAY, "x", f"n-{DAY}-0001", text)
    _write(home, "documents", DAY, [row])
    _write(home, "filtered_documents", DAY, [row])
    spans = [(0, 3, "PERSON"), (19, 26, "EMAIL_ADDRESS"), (30, 37, "PHONE_NUMBER"), (44, 47, "PHONE_NUMBER")]
    _write(home, "scrubbed_spans", DAY, [{"id": "x", "start": start, "end": end, "entity": entity} for start, end, entity in spans])
    figures = score(CONFIG, truth, home)
    assert figures["pii_recall"] == pytest.approx(2 / 3)
    assert figures["pii_precision"] == 0.5
    assert figures["pii_f1"] == pytest.approx(4 / 7)
    assert figures["pii_types"] == 2
    assert figures["pii_f1/PERSON"] == 1.0


def test_a_value_inside_a_longer_one_is_no_span_of_its_own() -> None:
    text = "ann@lee.org is ann, not anna"
    assert expected_spans(text, [("PERSON", "ann"), ("EMAIL_ADDRESS", "ann@lee.org")]) == [(0, 11, "EMAIL_ADDRESS"), (15, 18, "PERSON")]


def test_a_payload_is_seen_through_invisible_characters() -> None:
    assert carries("x i\u200bg\u2060nore y", "Ignore")
    assert not carries("x y", "Ignore")
    assert not carries("x y", "\U000e0041\U000e0042")


def test_duplicates_and_leaks_of_the_snapshot(home: Home, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    leaked = suites(CONFIG)["facts"][0]["question"]
    keys = [f"n-{DAY}-000{i}" for i in range(5)]
    copy, far = f"n-{NEXT}-0001", f"n-{NEXT}-0002"
    pairs = [
        {"copy": copy, "original": keys[0], "kind": "exact", "jaccard": 1.0},
        {"copy": far, "original": keys[0], "kind": "near", "jaccard": 0.75},
    ]
    _truth(truth, DAY, [_document(key, ("leak",) if i in (3, 4) else ()) for i, key in enumerate(keys)])
    _truth(truth, NEXT, [_document(copy, ("exact_duplicate",)), _document(far, ("near_duplicate",))], pairs)
    texts = [LONG, "quite another text about nothing at all", f"so {leaked} indeed", leaked, leaked]
    first = [_row(DAY, str(i), key, text) for i, (key, text) in enumerate(zip(keys, texts, strict=True))]
    second = [_row(NEXT, "c", copy, LONG), _row(NEXT, "f", far, LONG + " twentyone")]
    for table in ("documents", "scrubbed_documents"):
        _write(home, table, DAY, first)
        _write(home, table, NEXT, second)
    clusters = [
        ("0", "A", "kept", None),
        ("1", "A", "near_duplicate", "0"),
        ("2", "B", "contaminated", None),
        ("3", "C", "contaminated", None),
        ("4", "D", "kept", None),
        ("c", "A", "exact_duplicate", "0"),
        ("f", "E", "kept", None),
    ]
    _snapshot(home, clusters)
    figures = score(CONFIG, truth, home)
    assert figures["dedup_recall"] == 0.5
    assert figures["dedup_precision"] == 0.5
    assert figures["decontamination_recall"] == 0.5
    assert figures["decontamination_precision"] == 1.0


def _snapshot(home: Home, clusters: list[tuple[str, str, str, str | None]]) -> None:
    rows = [{"id": i, "cluster_id": c, "keep": reason == "kept", "reason": reason, "kept_id": kept} for i, c, reason, kept in clusters]

    def make(folder: Path) -> dict[str, Any]:
        pq.write_table(pa.Table.from_pylist(rows), folder / "clusters.parquet")
        pq.write_table(pa.table({"id": [row["id"] for row in rows if row["keep"]]}), folder / "documents.parquet")
        return {}

    home.artifacts.build("corpus_snapshot", {"made": "by hand"}, make)
