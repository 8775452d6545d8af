"""Bytes of plain, gz and zst files in blocks of bounded size: bombs are stopped, and what precedes damage still arrives."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_pipeline.curation.raw_records import KEPT_OF_DAMAGED

BLOCK = 1 << 20
MAX_RATIO = 200
"""Unpacked to packed bytes; text seldom passes 20, and what passes this is a bomb."""
RATIO_FROM = 64 << 20
"""Bytes that any file may unpack to, whatever the ratio."""
MAX_UNPACKED = 256 << 30
IN_MEMORY = 16 << 20
"""Formats that need random access are spooled to disk from this size on."""
_ZST_STEP = 1 << 10
"""A packed byte gives at most 32 KiB (a run-length block, RFC 8878), so that one step gives at most 32 MiB."""
_ZST_WINDOW = 1 << 27


class Damage(Exception):
    """The bytes end here; the message is `reason: detail`."""


class Stream:
    """The bytes of one file in blocks, once; where damage ends them early, `problem` says so afterwards."""

    def __init__(self, blocks: Iterable[bytes], path: Path | None = None) -> None:
        self._blocks, self._first, self.path = iter(blocks), b"", path
        self.problem: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        while block := self._first or self._next():
            self._first = b""
            yield block

    def _next(self) -> bytes:
        try:
            return next((block for block in self._blocks if block), b"")
        except Damage as error:
            self.problem = str(error)
        except OSError as error:
            self.problem = f"unreadable: {error.strerror or type(error).__name__}"
        return b""

    def peek(self) -> bytes:
        """The first block, which is still to come."""
        self._first = self._first or self._next()
        return self._first

    def whole(self, limit: int) -> tuple[bytes, bool]:
        """Everything and True, or the beginning and False when it is more than `limit` bytes."""
        parts, size = [], 0
        for block in self:
            parts.append(block)
            size += len(block)
            if size > limit:
                return parts[0][:KEPT_OF_DAMAGED], False
        return b"".join(parts), True

    @contextmanager
    def seekable(self) -> Iterator[Any]:
        """The same bytes as a file with random access: the file itself where it is not packed."""
        if self.path is not None:
            with self.path.open("rb") as file:
                yield file
            return
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
            for block in self:
                spool.write(block)
            spool.seek(0)
            yield spool


def file_stream(path: Path) -> Stream:
    return Stream(blocks_of(path), path)


def blocks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def packing(name: str) -> tuple[str, str]:
    """(`a.jsonl`, `gz`) of `a.jsonl.gz`; the second is empty for what is not packed."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, suffix.lower()) if dot and suffix.lower() in _UNPACKERS else (name, "")


def unpacked(stream: Stream, how: str) -> Stream:
    return Stream(_UNPACKERS[how](Meter(stream))) if how else stream


class Meter:
    """Counts packed bytes that went in, and refuses more unpacked bytes than they can honestly hold."""

    def __init__(self, stream: Stream, packed: int = 0) -> None:
        self.stream, self.packed, self.unpacked, self.bombs = stream, packed, 0, 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self.stream:
            self.packed += len(block)
            yield block
        if self.stream.problem:
            raise Damage(self.stream.problem)

    def out(self, block: bytes) -> bytes:
        self.unpacked += len(block)
        if self.unpacked > MAX_UNPACKED or self.unpacked > max(RATIO_FROM, MAX_RATIO * self.packed):
            raise Damage(f"bomb: {self.packed} packed bytes unpack to more than {self.unpacked}")
        return block


def _gunzip(meter: Meter) -> Iterator[bytes]:
    inflate = None
    for block in meter:
        while block:
            inflate = inflate or zlib.decompressobj(wbits=31)
            try:
                unpacked = inflate.decompress(block, BLOCK)
                while unpacked:
                    yield meter.out(unpacked)
                    unpacked = inflate.decompress(inflate.unconsumed_tail, BLOCK)
            except zlib.error as error:
                raise Damage(f"corrupt_gz: {error}") from error
            block = b""
            if inflate.eof:
                block, inflate = inflate.unused_data.lstrip(b"\0"), None
    if inflate:
        raise Damage("truncated_gz: the stream ends early")


def _unzstd(meter: Meter) -> Iterator[bytes]:
    import zstandard

    inflate = None
    for block in meter:
        for start in range(0, len(block), _ZST_STEP):
            piece = block[start : start + _ZST_STEP]
            while piece:
                inflate = inflate or zstandard.ZstdDecompressor(max_window_size=_ZST_WINDOW).decompressobj()
                try:
                    unpacked = inflate.decompress(piece)
                except zstandard.ZstdError as error:
                    raise Damage(f"corrupt_zst: {error}") from error
                if unpacked:
                    yield meter.out(unpacked)
                piece = b""
                if inflate.eof:
                    piece, inflate = inflate.unused_data, None
    if inflate:
        raise Damage("truncated_zst: the stream ends early")


_UNPACKERS: dict[str, Callable[[Meter], Iterator[bytes]]] = {"gz": _gunzip, "zst": _unzstd}
