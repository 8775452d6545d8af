"""The log of what was asked and answered: JSON lines in append-only segments, on disk before a reply ends.

One segment belongs to one process, so nothing is locked; a thread writes whatever has gathered and syncs once for all of it
(group commit), so durability costs one `fsync` per batch, not per request.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_pipeline.records import Interaction


class SegmentWriter:
    """Appends rows to `<folder>/<pid>-<start>.jsonl`; a row is durable when `append` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{os.getpid()}-{time.time_ns()}.jsonl"
        self._file = self.path.open("ab", buffering=0)
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.AbstractEventLoop, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="segments", daemon=True)
        self._thread.start()

    def submit(self, row: Interaction | Mapping[str, Any]) -> asyncio.Future[None]:
        """Hand a row to the writing thread; the future ends when it is durable, with OSError when the disk refuses it."""
        record = asdict(row) if isinstance(row, Interaction) else dict(row)
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        written.add_done_callback(_seen)
        self._queue.put((line, loop, written))
        return written

    async def append(self, row: Interaction | Mapping[str, Any]) -> None:
        await asyncio.shield(self.submit(row))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = [first], False
            while not self._queue.empty() and len(batch) < 1000:
                item = self._queue.get()
                if item is None:
                    last = True
                    break
                batch.append(item)
            error = self._write(b"".join(line for line, _, _ in batch))
            for _, loop, written in batch:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_settle, written, error)
            if last:
                return

    def _write(self, data: bytes) -> OSError | None:
        start = self._file.tell()
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fdatasync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(start)  # half a line would spoil the next one
            return error
        return None


def _seen(written: asyncio.Future[None]) -> None:
    """Mark an error as looked at, so that nobody having waited for it is no warning."""
    if not written.cancelled():
        written.exception()


def _settle(written: asyncio.Future[None], error: OSError | None) -> None:
    if written.done():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)


def mark(folder: Path) -> dict[str, int]:
    """Where every segment ends now; rows after a mark are those written since."""
    return {path.name: path.stat().st_size for path in folder.glob("*.jsonl")}


def rows_since(folder: Path, marks: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Complete rows written after `marks`, which are moved forward; a torn last line waits for its end."""
    for path in sorted(folder.glob("*.jsonl"), key=lambda p: p.name.partition("-")[2]):
        with path.open("rb") as file:
            file.seek(marks.get(path.name, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                marks[path.name] = marks.get(path.name, 0) + len(line)
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # a line that a kill tore, closed by a later writer; never acknowledged


def latest_rows(folder: Path, most: int) -> list[dict[str, Any]]:
    """The last `most` complete rows over all segments, oldest first."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl"), key=lambda p: p.name.partition("-")[2], reverse=True):
        rows = list(rows_since_one(path))[-(most - len(rows)) :] + rows
        if len(rows) >= most:
            break
    return rows


def rows_since_one(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                yield json.loads(line)
            except ValueError:
                continue
