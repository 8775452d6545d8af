import asyncio
import json
from pathlib import Path

from llm_pipeline.serving.interactions import SegmentWriter, latest_rows, mark, rows_since


def test_rows_are_on_disk_when_append_returns(tmp_path: Path) -> None:
    async def write() -> None:
        writer = SegmentWriter(tmp_path)
        await asyncio.gather(*(writer.append({"id": i, "text": "é\ud800"}) for i in range(200)))
        assert {json.loads(line)["id"] for line in writer.path.read_bytes().splitlines()} == set(range(200))
        writer.close()

    asyncio.run(write())


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    segment = tmp_path / "1-1.jsonl"
    segment.write_bytes(b'{"id": 1}\n{"id": 2')
    marks: dict[str, int] = {}
    assert [row["id"] for row in rows_since(tmp_path, marks)] == [1]
    segment.write_bytes(b'{"id": 1}\n{"id": 2}\n')
    assert [row["id"] for row in rows_since(tmp_path, marks)] == [2]
    assert list(rows_since(tmp_path, marks)) == []


def test_rows_after_a_mark_and_the_latest_over_segments(tmp_path: Path) -> None:
    (tmp_path / "9-1.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    marks = mark(tmp_path)
    (tmp_path / "3-2.jsonl").write_text('{"id": 3}\n')
    assert [row["id"] for row in rows_since(tmp_path, marks)] == [3]
    assert [row["id"] for row in latest_rows(tmp_path, 2)] == [2, 3]
    assert [row["id"] for row in latest_rows(tmp_path, 9)] == [1, 2, 3]
