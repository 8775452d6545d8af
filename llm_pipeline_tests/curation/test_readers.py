"""Every format is read, and every kind of damage becomes a row that says what it is while the good rows stay."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_pipeline.curation.readers import Record, decode, read_file, read_source, suite_files
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home

ROWS = [{"id": "a", "text": "The first text."}, {"id": "b", "text": "The second text."}]


def _jsonl(rows: list[dict[str, str]] = ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, str]] = ROWS) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def _pdf(text: str = "Hello from a page.") -> bytes:
    from reportlab.pdfgen.canvas import Canvas

    sink = io.BytesIO()
    canvas = Canvas(sink)
    canvas.drawString(72, 720, text)
    canvas.save()
    return sink.getvalue()


def _read(folder: Path, name: str, content: bytes) -> list[Record]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return list(read_file(path, folder))


def _reasons(records: list[Record]) -> list[str | None]:
    return [record.problem.split(":")[0] if record.problem else None for record in records]


def _source(uri: Path, **options: str) -> Source:
    return Source("user", "files", "MIT", "me", "mine", uri=str(uri), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.txt", b"Plain text.", 1),
        ("a.md", b"# Title\n\nText.", 1),
        ("a.html", b"<p>Text.</p>", 1),
        ("a.jsonl", _jsonl(), 2),
        ("a.csv", b"id,text\na,First\nb,Second\n", 2),
        ("a.parquet", _parquet(), 2),
        ("a.pdf", None, 1),
    ],
)
def test_every_format_also_packed(tmp_path: Path, name: str, content: bytes | None, rows: int, packed: bool) -> None:
    data = content if content is not None else _pdf()
    records = _read(tmp_path, name + (".gz" if packed else ""), gzip.compress(data) if packed else data)
    assert _reasons(records) == [None] * rows
    assert len({record.uri for record in records}) == rows
    if rows == 2:
        assert [record.external_id for record in records] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("a.jsonl", _jsonl() + b"{broken\n[1]\n", [None, None, "invalid_json", "not_an_object"]),
        ("a.csv", b"id,text\na,First\nb\nc,Third,more\n", [None, "ragged_csv", "ragged_csv"]),
        ("a.txt", b"Text with \0 inside.", ["nul_bytes"]),
        ("a.txt", bytes(range(1, 256)) * 3, ["binary"]),
        ("a.txt", b"", ["empty_file"]),
        ("a.pdf", b"%PDF-1.4 nothing else", ["broken_pdf"]),
        ("a.parquet", b"PAR1 nothing", ["broken_parquet"]),
        ("a.txt.gz", b"not gzip at all", ["corrupt_gz"]),
        ("a.docx", b"PK", ["broken_docx"]),
        ("a.xyz", b"PK", ["unsupported_format"]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_a_row_with_a_reason(tmp_path: Path, name: str, content: bytes, reasons: list[str | None]) -> None:
    assert _reasons(_read(tmp_path, name, content)) == reasons


def test_a_truncated_archive_keeps_what_can_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(_jsonl([{"id": str(i), "text": f"Text number {i * 7919}."} for i in range(500)]))
    reasons = _reasons(_read(tmp_path, "a.jsonl.gz", whole[: len(whole) // 2]))
    assert reasons.count(None) > 100
    assert reasons[-1] == "truncated_gz"


def test_a_symlink_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("Not yours.")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    table = read_source(_source(folder), Home(tmp_path / "home"), "2026-01-01")
    assert table["problem"].to_pylist()[0].startswith("symlink_outside")
    assert table["content"].to_pylist() == [b""]


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("naïve".encode(), "naïve", "utf-8"),
        ("\ufeffnaïve".encode(), "naïve", "utf-8"),
        ("crème brûlée – 4 €".encode("cp1252"), "crème brûlée – 4 €", "cp1252"),
        ("naïve".encode("utf-16"), "naïve", "utf-16"),
    ],
)
def test_encodings(data: bytes, text: str, encoding: str) -> None:
    assert decode(data) == (text, encoding)


def test_cyrillic_is_not_taken_for_western_text() -> None:
    text = "Клиент спросил, когда придёт новая карта, и поблагодарил за помощь. " * 4
    assert decode(text.encode("cp1251"))[0] == text


def test_strict_names_file_and_row_and_lenient_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_jsonl() + b"{broken\n")
    assert read_source(_source(tmp_path), Home(tmp_path / "home"), "2026-01-01").num_rows == 3
    with pytest.raises(InputError, match=r"a\.jsonl, row 3: invalid_json"):
        read_source(_source(tmp_path, policy="strict"), Home(tmp_path / "home"), "2026-01-01")


def test_days_come_from_folder_or_row_else_the_first(tmp_path: Path) -> None:
    folder, home = tmp_path / "in", Home(tmp_path / "home")
    for name in ("2026-01-03/a.txt", "b.txt"):
        _read(folder, name, f"In {name}".encode())
    _read(folder, "c.jsonl", _jsonl([{"text": "dated", "day": "2026-01-03"}, {"text": "undated"}]))
    uris = {day: read_source(_source(folder), home, day)["uri"].to_pylist() for day in ("2026-01-01", "2026-01-02", "2026-01-03")}
    assert uris == {"2026-01-01": ["b.txt", "c.jsonl#2"], "2026-01-02": [], "2026-01-03": ["a.txt", "c.jsonl#1"]}


def test_suites_are_not_documents(tmp_path: Path) -> None:
    _read(tmp_path, "questions.csv", b"question,answer\nWhat?,This.\n")
    _read(tmp_path, "passages.jsonl", _jsonl())
    source, home = _source(tmp_path), Home(tmp_path / "home")
    assert read_source(source, home, "2026-01-01").num_rows == 2
    assert [path.name for path in suite_files(source, home)] == ["questions.csv"]
