"""The interaction log: durable when it says so, whatever happens to the disk or the process, and scrubbed when asked."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_pipeline.errors import ConfigError
from llm_pipeline.monitoring.interactions import read_segments
from llm_pipeline.serving.observability.interactions import LogSettings, SegmentWriter, latest_rows, mark, rows_since
from llm_pipeline.serving.supervision.processes import free_port
from llm_pipeline_tests.serving.gateways import FakeEngine, Place, gateway, served
from llm_pipeline_tests.serving.test_cache import answered


def ids(folder: Path) -> list[Any]:
    return [row["id"] for row in rows_since(folder, {})]


def test_rows_are_on_disk_when_append_returns(tmp_path: Path) -> None:
    async def write() -> None:
        writer = SegmentWriter(tmp_path)
        await asyncio.gather(*(writer.append({"id": i, "text": "é\ud800", "big": 1 << 70}) for i in range(200)))
        assert {json.loads(line)["id"] for line in writer.path.read_bytes().splitlines()} == set(range(200))
        writer.close()

    asyncio.run(write())


def test_an_interaction_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    item = replace(
        answered("5 €"), messages=[{"role": "user", "content": "Fee?"}], key_id=7, variant="B", cost=0.25, cache="miss", status=200,
        guardrail_events=[{"rule": "input:x", "action": "flag", "score": 0.5}], upstreams=[{"name": "small", "status": 200}],
        prompt={"id": "p"}, parameters={"temperature": 0.0}, trace_id="a" * 32, span_id="b" * 16, user="ann",
    )  # fmt: skip

    async def write() -> None:
        writer = SegmentWriter(tmp_path)
        await writer.append(item)
        writer.close()

    asyncio.run(write())
    assert read_segments(tmp_path).interactions == [item]


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


def test_segments_end_at_their_size_and_nothing_is_lost_between_them(tmp_path: Path) -> None:
    async def write() -> None:
        writer = SegmentWriter(tmp_path, LogSettings(segment_bytes=200))
        for i in range(30):
            await writer.append({"id": i, "text": "x" * 50})
        writer.close()

    asyncio.run(write())
    assert len(list(tmp_path.glob("*.jsonl"))) > 5
    assert ids(tmp_path) == list(range(30))
    assert all(path.stat().st_size < 300 for path in tmp_path.glob("*.jsonl"))


def test_segments_end_at_their_age_but_never_empty(tmp_path: Path) -> None:
    async def write() -> None:
        writer = SegmentWriter(tmp_path, LogSettings(segment_seconds=1e-9))
        for i in range(3):
            await writer.append({"id": i})
        writer.close()

    asyncio.run(write())
    assert len(list(tmp_path.glob("*.jsonl"))) == 3
    assert ids(tmp_path) == [0, 1, 2]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A full disk, as far as this process can tell (Python turns the signal into EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_refuses_loses_nothing_and_recovers_by_itself(tmp_path: Path) -> None:
    async def write() -> None:
        writer = SegmentWriter(tmp_path)
        await writer.append({"id": "before"})
        with no_file_longer_than(writer.path.stat().st_size + 20):  # part of a row fits
            for _ in range(2):
                with pytest.raises(OSError, match="File too large"):
                    await writer.append({"id": "refused", "text": "x" * 100})
        await writer.append({"id": "after"})
        writer.close()
        assert writer.counts == {"written": 2, "refused": 2}

    asyncio.run(write())
    assert ids(tmp_path) == ["before", "after"]
    assert read_segments(tmp_path).counts().get("torn") is None


def test_a_disk_that_is_full_when_a_segment_must_end_goes_on_in_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write() -> None:
        writer = SegmentWriter(tmp_path, LogSettings(segment_bytes=1))
        await writer.append({"id": 1})

        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(writer, "_open", full)
            await writer.append({"id": 2})
        await writer.append({"id": 3})
        writer.close()

    asyncio.run(write())
    assert ids(tmp_path) == [1, 2, 3]
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_a_disk_that_hangs_fills_the_queue_to_its_end_and_no_further(tmp_path: Path) -> None:
    hanging, entered = threading.Event(), threading.Event()

    def hang(rows: Sequence[Mapping[str, Any]]) -> None:
        entered.set()
        hanging.wait(30)

    async def write() -> None:
        writer = SegmentWriter(tmp_path, LogSettings(most_waiting=2), also=hang)
        await writer.append({"id": 0})
        await asyncio.to_thread(entered.wait, 30)
        waiting = [writer.append({"id": i}) for i in (1, 2)]
        with pytest.raises(OSError, match="2 rows wait for the disk"):
            await writer.append({"id": 3})
        hanging.set()
        await asyncio.gather(*waiting)
        writer.close()

    asyncio.run(write())
    assert ids(tmp_path) == [0, 1, 2]


def test_what_follows_the_log_gets_durable_rows_and_cannot_harm_it(tmp_path: Path) -> None:
    seen: list[Any] = []

    def follow(rows: Sequence[Mapping[str, Any]]) -> None:
        assert {row["id"] for row in rows} <= set(ids(tmp_path))
        seen.extend(row["id"] for row in rows)
        raise RuntimeError("no business of the log's")

    async def write() -> None:
        writer = SegmentWriter(tmp_path, also=follow)
        for i in range(3):
            await writer.append({"id": i})
        writer.close()

    asyncio.run(write())
    assert seen == ids(tmp_path) == [0, 1, 2]


def test_personal_data_never_reaches_the_disk_when_the_setting_says_so(tmp_path: Path) -> None:
    secret = "mary.poppins@example.org"
    followed: list[Mapping[str, Any]] = []
    item = replace(
        answered(f"I wrote to {secret}."),
        user=secret,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": f"Mail {secret} about order 17"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "send", "arguments": f'"{secret}"'}}]},
        ],
    )

    async def write() -> None:
        writer = SegmentWriter(tmp_path, LogSettings(scrub="pii"), also=followed.extend)
        await asyncio.gather(
            writer.append(item), writer.append({"interaction_id": "i", "comment": secret, "correction": f"Ask {secret}", "rating": 1})
        )
        writer.close()

    asyncio.run(write())
    text = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert "poppins" not in text + json.dumps(followed)
    first, second = rows_since(tmp_path, {})
    assert first["messages"][1]["content"] == [{"type": "text", "text": "Mail [EMAIL_ADDRESS] about order 17"}]
    assert first["messages"][2]["tool_calls"][0]["function"] == {"name": "send", "arguments": '"[EMAIL_ADDRESS]"'}
    assert (first["answer"], first["user"], first["scrubbed"]) == ("I wrote to [EMAIL_ADDRESS].", "[EMAIL_ADDRESS]", True)
    assert (second["comment"], second["correction"], second["rating"]) == ("[EMAIL_ADDRESS]", "Ask [EMAIL_ADDRESS]", 1)
    assert item.answer == f"I wrote to {secret}."  # what is replied is not touched


WRITER = """
import asyncio, sys
from pathlib import Path
from llm_pipeline.serving.observability.interactions import LogSettings, SegmentWriter

async def client(writer, name):
    for i in range(10**9):
        await writer.append({"id": f"{name}-{i}", "text": "x" * 300})
        print(f"{name}-{i}", flush=True)  # what a gateway does with its reply

async def main():
    writer = SegmentWriter(Path(sys.argv[1]), LogSettings(segment_bytes=20_000))
    await asyncio.gather(*(client(writer, name) for name in range(16)))

asyncio.run(main())
"""


def test_kill_9_under_load_loses_no_acknowledged_row(tmp_path: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(400)]
        process.kill()
        acknowledged += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        assert len(acknowledged) >= 400
        assert set(acknowledged) <= set(ids(tmp_path))
        for path in tmp_path.glob("*.jsonl"):
            path.unlink()


@pytest.mark.parametrize("sync", ["reply", "background"])
def test_the_disk_is_flushed_before_the_reply_or_soon_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Any) -> None:
    flushed = threading.Event()

    def flush(descriptor: int) -> None:
        os.fsync(descriptor)
        flushed.set()

    monkeypatch.setattr(os, "fdatasync", flush)

    async def write() -> None:
        writer = SegmentWriter(tmp_path, LogSettings(sync=sync, sync_seconds=0.001))
        await writer.append({"id": 1})
        if sync == "reply":
            assert flushed.is_set()
        assert await asyncio.to_thread(flushed.wait, 30)
        writer.close()

    asyncio.run(write())
    assert ids(tmp_path) == [1]


def test_a_disk_that_cannot_be_flushed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)

    async def write() -> None:
        strict, lazy = SegmentWriter(tmp_path / "a"), SegmentWriter(tmp_path / "b", LogSettings(sync="background"))
        with pytest.raises(OSError, match="Input/output error"):
            await strict.append({"id": 1})
        await lazy.append({"id": 1})
        strict.close()
        lazy.close()
        assert (strict.counts, lazy.counts) == ({"refused": 1}, {"written": 1, "not_flushed": 1})

    asyncio.run(write())
    assert (ids(tmp_path / "a"), ids(tmp_path / "b")) == ([], [1])


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="expected positive sizes"):
        LogSettings(segment_bytes=0)


def ask(place: Place, **body: Any) -> httpx.Response:
    body = {"model": "default", "messages": [{"role": "user", "content": "Fee?"}]} | body
    return httpx.post(f"{place.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {place.key}"}, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
def test_a_gateway_with_a_full_disk_says_503_and_recovers_by_itself(tmp_path: Path, stream: bool) -> None:
    with served(FakeEngine(["5", " €"])) as url, gateway(tmp_path, {"upstreams": {"a": {"url": url}}}) as place:
        before = ask(place, stream=stream).headers["x-interaction-id"]
        with no_file_longer_than(0):
            refused = ask(place, stream=stream)
        after = ask(place, stream=stream).headers["x-interaction-id"]
        assert "log_failed" in refused.text
        assert refused.status_code == (200 if stream else 503)  # a stream that has begun can only end with an error event
        assert [row["id"] for row in place.logged()] == [before, after]


@contextmanager
def gateway_process(folder: Path, upstream: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway as its command starts it; it may be killed."""
    port = free_port()
    program = [sys.executable, "-c", "from llm_pipeline.cli import main; main()", "gateway"]
    command = [*program, "--upstream", upstream, "--folder", str(folder), "--port", str(port)]
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        deadline = time.monotonic() + 120
        while not _ready(f"http://127.0.0.1:{port}/readyz"):
            assert process.poll() is None, (folder / "gateway.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_kill_9_of_a_gateway_under_load_loses_no_answered_interaction(tmp_path: Path) -> None:
    answered_ids: list[str] = []
    enough = threading.Event()

    def talk(url: str, key: str) -> None:
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            body = {"model": "default", "messages": [{"role": "user", "content": "Fee?"}], "user": "ann"}
            while True:
                try:
                    reply = client.post("/v1/chat/completions", json=body)
                    answered_ids.append(reply.json()["id"])
                except (httpx.HTTPError, ValueError):
                    return
                if len(answered_ids) >= 200:
                    enough.set()

    with served(FakeEngine(["5", " €"])) as upstream, gateway_process(tmp_path, upstream) as (process, url):
        key = json.loads((tmp_path / "key.json").read_text())["key"]
        threads = [threading.Thread(target=talk, args=(url, key)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert enough.wait(120)
        process.kill()
        for thread in threads:
            thread.join(60)
    recorded = {row.id for row in read_segments(tmp_path / "interactions").interactions}
    assert len(answered_ids) >= 200
    assert set(answered_ids) <= recorded
