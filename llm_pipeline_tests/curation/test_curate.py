"""`llm-pipeline curate`: a dirty folder becomes clean documents, and the books balance whatever the folder holds."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llm_pipeline.cli import app
from llm_pipeline.curation.curate import curate

TOPICS = ("harbours", "bridges", "orchards", "libraries", "glaciers", "lanterns", "markets", "rivers", "railways", "gardens")
LEAK = "Which of the three old harbours in the north was the first to get a lighthouse with an electric lamp?"


def prose(topic: str, seed: int = 0) -> str:
    """Some sentences that no filter has a reason to remove, different for every topic and seed."""
    r = random.Random(f"{topic}/{seed}")
    starts = ("People who know", "Visitors to", "The history of", "A short walk along", "Those who care for", "Old maps of")
    ends = (
        "will find that they have changed a lot since then",
        "say that the best time to see them is in early spring",
        "is not easy to tell",
    )
    more = ("in the valley", "near the coast", "behind the hills", "at the edge of the town", "in the north", "by the lake")
    lines = [f"{r.choice(starts)} the {topic} {r.choice(more)} number {r.randint(2, 999)} {r.choice(ends)}." for _ in range(8)]
    return " ".join(lines)


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [{"id": topic, "text": prose(topic)} for topic in TOPICS]
    rows.append({"id": "twin", "text": rows[0]["text"]})
    rows.append({"id": "near", "text": rows[1]["text"].replace("number", "no.", 1)})
    rows.append({"id": "private", "text": prose("mills") + " Write to jane.roe@example.org or pay GB82 WEST 1234 5698 7654 32."})
    rows.append({"id": "leak", "text": prose("ferries") + " " + LEAK + " " + prose("ferries", 1)})
    rows.append({"id": "noise", "text": "xkcdq zzvrt " * 40})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "zeros.txt").write_bytes(b"\0" * 100)
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps({"id": "cut", "text": prose("canals")}).encode() + b"\n" * 9000)[:-20])
    (folder / "page.html").write_text(f"<html><title>Mills</title><body><article><p>{prose('towers')}</p></article></body></html>")
    return folder


def test_a_dirty_folder(dirty: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.jsonl").write_text(json.dumps({"id": "q1", "question": LEAK, "answer": "The second."}) + "\n")
    arguments = ["curate", str(dirty), str(tmp_path / "out"), "--against", str(tmp_path / "suite.jsonl"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["received"] == summary["kept"] + summary["removed"] + summary["quarantined"]
    kept = {row["external_id"]: row["text"] for row in pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()}
    assert set(TOPICS) - {"harbours", "bridges"} <= kept.keys()
    assert len({"harbours", "twin"} & kept.keys()) == 1
    assert len({"bridges", "near"} & kept.keys()) == 1
    assert not {"leak", "noise"} & kept.keys()
    assert "[EMAIL_ADDRESS]" in kept["private"]
    assert "[IBAN_CODE]" in kept["private"]
    assert "Title" not in kept
    ledger = pq.read_table(tmp_path / "out" / "ledger.parquet").to_pylist()
    rules = {row["rule"] for row in ledger}
    assert {"exact_duplicate", "near_duplicate", "contaminated", "invalid_json", "empty_file", "truncated_gz"} <= rules
    leaked = next(row for row in ledger if row["rule"] == "contaminated")
    assert leaked["detail"] == "q1"
    spans = pq.read_table(tmp_path / "out" / "spans.parquet").to_pylist()
    assert {span["entity"] for span in spans} >= {"EMAIL_ADDRESS", "IBAN_CODE"}
    assert "near_duplicate" in (tmp_path / "out" / "data_card.md").read_text()


def test_ten_thousand_tiny_files(tmp_path: Path) -> None:
    """Notes, some empty, a link out of the folder and one to nowhere: all of the good ones arrive, under their own names."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for i in range(10_000):
        (folder / f"note{i}.txt").write_text(f"Branch {i} in the street {i * 7 % 9973} opens at nine." if i % 100 else "")
    (tmp_path / "outside.txt").write_text("Not part of the folder.")
    (folder / "out.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "nowhere.txt").symlink_to(tmp_path / "missing.txt")
    summary = curate(folder, tmp_path / "out")
    kept = pq.read_table(tmp_path / "out" / "documents.parquet", columns=["external_id"])["external_id"].to_pylist()
    assert sorted(kept) == sorted(f"note{i}" for i in range(10_000) if i % 100)
    assert summary["received"] == summary["kept"] + summary["removed"] + summary["quarantined"]
    assert summary["rules"]["documents/empty_file"] == 100


def test_the_same_input_gives_the_same_corpus(dirty: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        curate(dirty, tmp_path / name)
    for file in ("documents.parquet", "ledger.parquet", "clusters.parquet", "spans.parquet"):
        assert pq.read_table(tmp_path / "one" / file).equals(pq.read_table(tmp_path / "two" / file)), file


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: json.dumps({"id": text[:3], "text": text}).encode())),
        max_size=8,
    )
)
def test_the_books_balance_on_any_bytes(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "raw").mkdir()
    (folder / "raw" / "a.jsonl").write_bytes(b"\n".join(lines))
    (folder / "raw" / "b.txt").write_bytes(b"".join(lines))
    summary: dict[str, Any] = curate(folder / "raw", folder / "out")
    assert summary["received"] == summary["kept"] + summary["removed"] + summary["quarantined"]
    assert summary["kept"] == pq.read_metadata(folder / "out" / "documents.parquet").num_rows
