"""The log of what was asked and answered: JSON lines in append-only segments, written before a reply ends.

One segment belongs to one process, so nothing is locked; a thread scrubs and writes whatever has gathered in one go (group commit).
What was written survives the death of every process. `sync` says what the power may take: nothing, at the price of the disk's flush in
every reply's latency (one flush per batch, not per request), or the last moments. A full disk refuses rows (`OSError`) and loses none
that it accepted; the next row is tried again, so it recovers by itself.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from llm_pipeline.errors import ConfigError
from llm_pipeline.records import Interaction

log = logging.getLogger(__name__)
Row = Mapping[str, Any]
_Waiting = tuple[Row, "asyncio.Future[None]"]


@dataclass(frozen=True)
class LogSettings:
    """How interactions are kept."""

    scrub: Literal["none", "pii"] = "none"
    """pii: personal data of messages, answers and feedback is replaced (data/policies/pii.yaml) before it is written."""
    sync: Literal["background", "reply"] = "reply"
    """When the disk is flushed: every `sync_seconds`, or before each reply ends (then not even the power takes an answered row)."""
    sync_seconds: float = 0.2
    segment_bytes: int = 64 << 20
    segment_seconds: float = 3600.0
    """A segment ends at this size or age, whichever comes first, so that it can be archived or deleted whole."""
    most_waiting: int = 20_000
    """Rows that may wait for the disk; one more is refused at once."""

    def __post_init__(self) -> None:
        if min(self.segment_bytes, self.segment_seconds, self.most_waiting, self.sync_seconds) <= 0:
            raise ConfigError(f"interaction log: expected positive sizes and times, received {self}")


class SegmentWriter:
    """Appends rows to `<folder>/<pid>-<start>.jsonl`; a row is written (and flushed, as `sync` says) when `append` returns.

    `also` is called on the writing thread with the rows of each batch as they were written (scrubbed, if so).
    """

    def __init__(self, folder: Path, settings: LogSettings = LogSettings(), also: Callable[[Sequence[Row]], None] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._settings, self._also = folder, settings, also
        self._scrub = _scrubber() if settings.scrub == "pii" else None
        self._waiting: list[_Waiting] = []
        """Rows that came while a batch is being written: the next batch."""
        self._unwritten, self._writing, self._handing = 0, False, threading.Lock()
        self._batches: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self.counts: Counter[str] = Counter()
        """Rows that were written, and those that were refused."""
        self._torn, self._unsynced = False, False
        self._ended, self._syncing = threading.Event(), threading.Lock()
        self._open()
        self._threads = [threading.Thread(target=self._run, name="segments", daemon=True)]
        if settings.sync == "background":
            self._threads.append(threading.Thread(target=self._sync_often, name="segments-sync", daemon=True))
        for thread in self._threads:
            thread.start()

    def append(self, row: Interaction | Row) -> asyncio.Future[None]:
        """Hand a row to the writing thread; the future ends when it is written, with OSError when the disk refuses it.

        The row is read later, so it must not change any more; who gives up the wait does not take the row back.
        """
        self._loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = self._loop.create_future()
        if self._unwritten >= self._settings.most_waiting:
            self.counts["refused"] += 1
            written.set_exception(OSError(errno.EBUSY, f"{self._settings.most_waiting} rows wait for the disk"))
            return written
        self._unwritten += 1
        self._waiting.append((vars(row) if isinstance(row, Interaction) else row, written))
        if not self._writing:
            self._hand_over()
        return written

    def submit(self, row: Interaction | Row) -> None:
        """The same, when nobody waits for it."""
        self.append(row).add_done_callback(_seen)

    def close(self) -> None:
        """Write what waits, and end; no row may come any more."""
        if self._waiting:
            self._hand_over()
        self._batches.put(None)
        self._threads[0].join()
        self._ended.set()
        for thread in self._threads[1:]:
            thread.join()
        self._flush()
        self._file.close()

    def _hand_over(self) -> None:
        self._writing = True
        with self._handing:  # `close` may come from another thread
            batch, self._waiting = self._waiting, []
        self._batches.put(batch)

    def _settle(self, batch: Sequence[_Waiting], error: Exception | None) -> None:
        """On the event loop: tell who waited, and begin the next batch first, so that the disk works meanwhile."""
        self._unwritten -= len(batch)
        self._writing = False
        if self._waiting:
            self._hand_over()
        for _, written in batch:
            if written.done():
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error if isinstance(error, OSError) else OSError(errno.EIO, f"cannot be written: {error!r}"))

    def _open(self) -> None:
        """Begin a segment whose name and place are durable, too: a synced file in an unsynced folder may vanish with the power."""
        path = self._folder / f"{os.getpid()}-{time.time_ns()}.jsonl"
        file = path.open("ab", buffering=0)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.path, self._file, self._size, self._until = path, file, 0, time.monotonic() + self._settings.segment_seconds

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._commit(batch)

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        rows, error = [row for row, _ in batch], None
        try:
            rows = self._scrub(rows) if self._scrub else rows
            self._rotate()
            self._write(b"".join(map(_line, rows)))
        except Exception as failure:  # whatever it is, those who wait must hear of it and the thread must live on
            error = failure
            log.error("%d interactions could not be written: %r", len(batch), failure)
        self.counts["refused" if error else "written"] += len(batch)
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._settle, batch, error)
        if self._also and error is None:
            try:
                self._also(rows)
            except Exception:
                log.exception("what follows the interaction log failed")

    def _rotate(self) -> None:
        if self._size < self._settings.segment_bytes and (self._size == 0 or time.monotonic() < self._until):
            return
        full = self._file
        with suppress(OSError), self._syncing:  # no room for another file: go on in this one
            if self._settings.sync == "background":
                os.fdatasync(full.fileno())
            self._open()
            full.close()
            self._torn = False

    def _write(self, data: bytes) -> None:
        start = self._size
        data = b"\n" + data if self._torn else data
        try:
            while data:
                written = self._file.write(data)
                self._size += written
                data = data[written:]
            if self._settings.sync == "reply":
                os.fdatasync(self._file.fileno())
            self._torn, self._unsynced = False, True
        except OSError:
            self._torn = True
            with suppress(OSError):  # half a line would spoil the next one
                self._file.truncate(start)
                self._file.seek(start)  # else the next failure would truncate to beyond the end, which writes zeros
                self._size = start
                self._torn = False
            raise

    def _sync_often(self) -> None:
        while not self._ended.wait(self._settings.sync_seconds):
            self._flush()

    def _flush(self) -> None:
        if not self._unsynced:
            return
        self._unsynced = False
        try:
            with self._syncing:
                os.fdatasync(self._file.fileno())
        except OSError as error:
            self.counts["not_flushed"] += 1
            log.error("the interaction log cannot be flushed; the last rows are safe from a crash of this process only: %r", error)


def _line(row: Row) -> bytes:
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half of a surrogate pair, which is no Unicode text, or a number beyond 64 bits
        return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"


def _scrubber() -> Callable[[Sequence[Row]], list[Row]]:
    from llm_pipeline.serving.observability.scrubbing import Scrubber

    return Scrubber()


def _seen(written: asyncio.Future[None]) -> None:
    """Mark an error as looked at, so that nobody having waited for it is no warning."""
    if not written.cancelled():
        written.exception()


def mark(folder: Path) -> dict[str, int]:
    """Where every segment ends now; rows after a mark are those written since."""
    return {path.name: path.stat().st_size for path in folder.glob("*.jsonl")}


def rows_since(folder: Path, marks: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Complete rows written after `marks`, which are moved forward; a torn last line waits for its end."""
    for path in _in_order(folder):
        if path.stat().st_size <= marks.get(path.name, 0):
            continue
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
    for path in reversed(_in_order(folder)):
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


def _in_order(folder: Path) -> list[Path]:
    """Segments by the time of their beginning."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: path.name.partition("-")[2])
