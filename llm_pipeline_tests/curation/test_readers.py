"""Every format is read, and every kind of damage becomes a row that says what it is while the good rows stay."""

from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from llm_pipeline.curation import readers
from llm_pipeline.curation.normalise import Draft, draft_of, normalise, normalise_rows
from llm_pipeline.curation.raw_records import DOCX, EMAIL
from llm_pipeline.curation.readers import Record, decode, raw_batches, raw_rows, read_file, read_source, suite_files
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home
from llm_pipeline_tests.curation.samples import SAMPLES, docx, email, jsonl, parquet


def _read(folder: Path, name: str, content: bytes) -> list[Record]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return list(read_file(path, folder))


def _reasons(records: list[Record]) -> list[str | None]:
    return [record.problem.split(":")[0] if record.problem else None for record in records]


def _source(uri: Path, **options: str) -> Source:
    return Source("user", "files", "MIT", "me", "mine", uri=str(uri), **options)  # type: ignore[arg-type]


def _zipped(name: str, data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"folder/{name}", data)
    return sink.getvalue()


@pytest.mark.parametrize("packing", ["", ".gz", ".zst", ".zip"])
@pytest.mark.parametrize("suffix", SAMPLES)
def test_every_format_also_packed(tmp_path: Path, suffix: str, packing: str) -> None:
    name, data = f"a.{suffix}", SAMPLES[suffix]
    packers: dict[str, Callable[[], bytes]] = {
        "": lambda: data,
        ".gz": lambda: gzip.compress(data),
        ".zst": lambda: zstandard.ZstdCompressor().compress(data),
        ".zip": lambda: _zipped(name, data),
    }
    records = _read(tmp_path, f"b{packing}" if packing == ".zip" else name + packing, packers[packing]())
    rows = 2 if suffix in ("jsonl", "csv", "parquet") else 1
    assert _reasons(records) == [None] * rows
    assert [record.external_id for record in records] == (["a", "b"] if rows == 2 else ["a"])
    place = f"b.zip/folder/{name}" if packing == ".zip" else name + packing
    assert {record.uri.split("#")[0] for record in records} == {place}
    assert [draft_of({"media_type": r.media_type, "content": r.content, "uri": r.uri}).text != "" for r in records] == [True] * rows


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("a.jsonl", jsonl() + b"{broken\n[1]\n", [None, None, "invalid_json", "not_an_object"]),
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
    whole = gzip.compress(jsonl([{"id": str(i), "text": f"Text number {i * 7919}."} for i in range(500)]))
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
    (tmp_path / "a.jsonl").write_bytes(jsonl() + b"{broken\n")
    assert read_source(_source(tmp_path), Home(tmp_path / "home"), "2026-01-01").num_rows == 3
    with pytest.raises(InputError, match=r"a\.jsonl, row 3: invalid_json"):
        read_source(_source(tmp_path, policy="strict"), Home(tmp_path / "home"), "2026-01-01")


def test_days_come_from_folder_or_row_else_the_first(tmp_path: Path) -> None:
    folder, home = tmp_path / "in", Home(tmp_path / "home")
    for name in ("2026-01-03/a.txt", "b.txt"):
        _read(folder, name, f"In {name}".encode())
    _read(folder, "c.jsonl", jsonl([{"text": "dated", "day": "2026-01-03"}, {"text": "undated"}]))
    uris = {day: read_source(_source(folder), home, day)["uri"].to_pylist() for day in ("2026-01-01", "2026-01-02", "2026-01-03")}
    assert uris == {"2026-01-01": ["b.txt", "c.jsonl#2"], "2026-01-02": [], "2026-01-03": ["a.txt", "c.jsonl#1"]}


def test_suites_are_not_documents(tmp_path: Path) -> None:
    _read(tmp_path, "questions.csv", b"question,answer\nWhat?,This.\n")
    _read(tmp_path, "passages.jsonl", jsonl())
    source, home = _source(tmp_path), Home(tmp_path / "home")
    assert read_source(source, home, "2026-01-01").num_rows == 2
    assert [path.name for path in suite_files(source, home)] == ["questions.csv"]


def _texts(records: list[Record]) -> list[str | None]:
    return [None if record.problem else json.loads(record.content)["text"] for record in records]


def test_encodings_may_change_from_line_to_line(tmp_path: Path) -> None:
    lines = ['{"text": "naïve"}'.encode(), '{"text": "crème brûlée"}'.encode("cp1252"), b'{"text": "\\ud83d\\ude00"}', b'{"text": "a\0b"}']
    lines += [f'{{"text": "Клиент спросил, когда придёт новая карта {i}"}}'.encode("cp1251") for i in range(40)]
    records = _read(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines))
    assert _texts(records)[:3] == ["naïve", "crème brûlée", "😀"]
    assert _reasons(records)[3] == "nul_bytes"
    assert _texts(records)[4:] == [f"Клиент спросил, когда придёт новая карта {i}" for i in range(40)]
    assert [record.encoding for record in records[:2]] == [None, "cp1252"]
    assert _texts(_read(tmp_path, "b.jsonl", '{"text": "naïve"}\n{"text": "ü"}\n'.encode("utf-16"))) == ["naïve", "ü"]


def test_half_a_surrogate_pair_never_leaves_the_reader(tmp_path: Path) -> None:
    [record] = _read(tmp_path, "a.jsonl", b'{"id": "\\ud800", "url": "x\\udfff", "text": "a\\ud800b"}\n')
    assert (record.uri, record.external_id, json.loads(record.content)["text"]) == ("x?", "?", "a?b")


@pytest.mark.parametrize(
    "identity", ["18446744073709551616", "-9223372036854775809", "1.5", "9007199254740993", "-0", "1e400", "NaN", "true"]
)
def test_numbers_name_a_row_as_python_reads_them(tmp_path: Path, identity: str) -> None:
    line = f'{{"id": {identity}, "text": "t \\ud83d\\ude00"}}'
    [record] = _read(tmp_path, "rows.jsonl", line.encode())
    assert record.external_id == str(json.loads(line)["id"])
    assert record.parsed is not None
    assert record.parsed["text"] == "t 😀"
    assert json.loads(record.content)["text"] == "t 😀"


def test_a_row_that_is_too_long_costs_only_itself(tmp_path: Path) -> None:
    rows = [b'{"text": "one"}', b'{"text": "' + b"x" * (50 << 20) + b'"}', b'{"text": "two"}']
    records = _read(tmp_path, "a.jsonl", b"\n".join(rows))
    assert _reasons(records) == [None, "too_large", None]
    assert (len(records[1].content), records[1].row, records[2].row) == (4096, 2, 3)
    assert _reasons(_read(tmp_path, "a.csv", b"text\none\n" + b"y" * (33 << 20) + b"\ntwo\n")) == [None, "invalid_csv", None]
    assert _reasons(_read(tmp_path, "a.txt", b"x" * (33 << 20))) == ["too_large"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b'id,text\na,one\nb,"two\nc,three\nd,four\n', ["one", None, "three", "four"]),
        (b'id,text\na,"one\nand more"\nb,two', ["one\nand more", "two"]),
        (b"id;text\na;one, and more\n", ["one, and more"]),
        (b"id,text\ra,one\rb,two\r", ["one", "two"]),
        (b"id,text\r\na,one\r\n\r\nb,two\r\n", ["one", "two"]),
        ("id,text\na,crème\n".encode("cp1252") + "b,naïve\n".encode(), ["crème", "naïve"]),
        (b"id,text\na,x\0y\nb,two\n", [None, "two"]),
        (b"text,text\none,two\n", ["one"]),
    ],
)
def test_csv_of_every_make(tmp_path: Path, content: bytes, texts: list[str | None]) -> None:
    assert _texts(_read(tmp_path, "a.csv", content)) == texts


def test_repeated_names_of_columns_hide_nothing(tmp_path: Path) -> None:
    [record] = _read(tmp_path, "a.csv", b"text,text\none,two\n")
    assert json.loads(record.content) == {"text": "one", "text_2": "two"}


def test_a_damaged_row_group_costs_only_itself(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"Text {i * 7919} of some length."} for i in range(300)]
    data = bytearray(parquet(rows, row_group_size=100))
    at = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(1).data_page_offset
    data[at : at + 30] = bytes(30)
    records = _read(tmp_path, "a.parquet", bytes(data))
    kept = {record.external_id for record in records if not record.problem}
    assert kept == {str(i) for i in [*range(100), *range(200, 300)]}
    assert _reasons(records).count("broken_parquet") == 1
    assert next(record.row for record in records if record.external_id == "200") == 200


def test_a_string_of_parquet_that_is_no_text_costs_only_its_row(tmp_path: Path) -> None:
    whole = parquet([{"text": "one"}, {"text": "zzzz"}, {"text": "two"}])
    records = _read(tmp_path, "a.parquet", whole.replace(b"zzzz", b"\xff\xfe\xfd\xfc"))
    assert _reasons(records) == [None, "undecodable", None]
    dates = pa.table({"text": ["one", "two"], "at": pa.array([0, 10**15], pa.timestamp("ms"))})
    pq.write_table(dates, tmp_path / "b.parquet")
    assert _reasons(list(read_file(tmp_path / "b.parquet", tmp_path))) == [None, "undecodable"]


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "folder.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    table = read_source(_source(tmp_path), Home(tmp_path / "home"), "2026-01-01")
    assert [problem.split(":")[0] for problem in table["problem"].to_pylist()] == ["unreadable", "not_a_file", "not_a_file"]


def test_names_that_are_no_text_are_printable(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/a\xff.txt", "wb") as file:
        file.write(b"Text.")
    assert read_source(_source(tmp_path), Home(tmp_path / "home"), "2026-01-01")["uri"].to_pylist() == ["a\ufffd.txt"]


def test_rows_older_than_the_first_day_belong_to_it(tmp_path: Path) -> None:
    _read(tmp_path, "c.jsonl", jsonl([{"text": "old", "day": "2019-05-05"}]))
    assert read_source(_source(tmp_path), Home(tmp_path / "home"), "2026-01-01").num_rows == 1


def test_word_documents_and_mails_become_text() -> None:
    def draft(media: str, content: bytes) -> Draft:
        return draft_of({"media_type": media, "content": content, "uri": "a"})

    found = draft(DOCX, docx())
    assert (found.title, found.text) == (
        "Opening hours",
        "The branch opens at nine.\n\nMonday | nine to five\n\nIt is closed on Sundays.",
    )
    plain = draft(EMAIL, email(attachment=True))
    assert (plain.title, plain.text) == ("Your card — news", "The new card arrives on Monday.\nIt replaces the old one.")
    assert plain.changes == ("attachments_left_out",)
    assert "arrives on Monday" in draft(EMAIL, email(page=True)).text


def test_batches_end_by_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = _read(tmp_path, "a.jsonl", jsonl([{"text": "x" * 100}] * 10))
    monkeypatch.setattr(readers, "BATCH_BYTES", 300)
    assert [table.num_rows for table in raw_batches(_source(tmp_path), records)] == [3, 3, 3, 1]


def test_rows_read_once_make_the_documents_that_their_table_makes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"id": 1, "text": "A text."}, {"text": None}, {"prompt": "Why?", "response": "So."}, {}, {"title": "T\ud800", "text": "B"}]
    path.write_bytes(jsonl(rows) + b"[1]\n{broken\n" + '{"text": "déjà"}\n'.encode("cp1252"))
    source = _source(tmp_path)
    [table] = raw_batches(source, read_file(path, tmp_path))
    [parsed] = raw_rows(source, read_file(path, tmp_path))
    assert [table.to_pylist() for table in normalise_rows(parsed, "2026-01-01")] == [
        made.to_pylist() for made in normalise(table, "2026-01-01")
    ]
