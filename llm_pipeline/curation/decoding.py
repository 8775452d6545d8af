"""Bytes into text and lines: UTF-8 first, then what the bytes look like, within one file as well as between files."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from llm_pipeline.curation.raw_records import KEPT_OF_DAMAGED, MAX_ROW

_SAMPLE = 20_000
"""Bytes on which a character set is guessed."""
_WESTERN = 2.0
"""Mean length of a run of high bytes below which text is Western European: accents are single, other scripts come in words."""
_HIGH = re.compile(rb"[\x80-\xff]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CHARSET = re.compile(rb"""charset\s*=\s*["']?([\w-]{1,40})""", re.I)


def decode(data: bytes) -> tuple[str, str]:
    """Text and the encoding it was in: UTF-8, UTF-16 or -32 with a mark, cp1252, or what charset detection finds; else ValueError."""
    return _marked_or_utf8(data) or _other(data, data)


def decode_page(data: bytes, header: str = "") -> tuple[str, str]:
    """The same for HTML, which may say its encoding itself; `header` is the content type that came with it."""
    if found := _marked_or_utf8(data):
        return found
    for declared in (*_CHARSET.findall(header.encode()), *_CHARSET.findall(data[:KEPT_OF_DAMAGED])[:1]):
        try:
            return data.decode(declared.decode()), declared.decode().lower()
        except (LookupError, ValueError):
            continue
    return _other(data, data)


def _marked_or_utf8(data: bytes) -> tuple[str, str] | None:
    if mark := _mark(data):
        return data.decode(mark, errors="replace"), mark
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return None


def _mark(data: bytes) -> str | None:
    return next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)


def _other(data: bytes, sample: bytes) -> tuple[str, str]:
    head = data[:KEPT_OF_DAMAGED]
    if b"\0" in data or len(_CONTROL.findall(head)) > 0.02 * len(head):
        raise ValueError("binary: neither UTF-8 nor text of another encoding")
    if _is_western(data):
        try:
            return data.decode("cp1252"), "cp1252"
        except UnicodeDecodeError:
            pass
    encoding = _guess(sample)
    return data.decode(encoding, errors="replace"), encoding


def _is_western(data: bytes) -> bool:
    runs = _HIGH.findall(data[:_SAMPLE])
    return sum(map(len, runs)) < _WESTERN * len(runs)


def _guess(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(sample[:_SAMPLE]).best()
    if best is None:
        raise ValueError("undecodable: no known encoding fits")
    return best.encoding


class Decoder:
    """Decodes the lines of one file each by itself; what charset detection must decide, it decides once per block."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = _as_utf8(blocks)
        self._block, self._sample = b"", b""

    def blocks(self) -> Iterator[bytes]:
        for block in self._blocks:
            self._block, self._sample = block, b""
            yield block

    def __call__(self, line: bytes) -> tuple[str, str | None]:
        """The text of a line and its encoding where that was not UTF-8; ValueError when none fits."""
        try:
            return str(line, "utf-8"), None
        except UnicodeDecodeError:
            self._sample = self._sample or self._foreign() or line
            return _other(line, self._sample)

    def _foreign(self) -> bytes:
        return b"\n".join([line for line in self._block.split(b"\n") if _is_foreign(line)])[:_SAMPLE]


def _is_foreign(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return not _is_western(line)
    return False


def _as_utf8(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks of a file without its mark, in UTF-8 where the mark says UTF-16 or UTF-32."""
    source = iter(blocks)
    first = next(source, b"")
    mark = _mark(first)
    if mark is None:
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from source
        return
    decoder = codecs.getincrementaldecoder(mark)(errors="replace")
    yield decoder.decode(first).encode("utf-8", "replace")
    for block in source:
        yield decoder.decode(block).encode("utf-8", "replace")
    yield decoder.decode(b"", final=True).encode("utf-8", "replace")


def lines(blocks: Iterable[bytes], limit: int = MAX_ROW) -> Iterator[tuple[bytes, bool]]:
    """(line without its end, True), or (its beginning, False) of a line longer than `limit`, which is never held as a whole."""
    parts: list[bytes] = []
    held, whole, any_block = 0, True, False
    for block in blocks:
        any_block = True
        *ended, rest = block.split(b"\n")
        for piece in ended:
            if parts:
                whole = whole and held + len(piece) <= limit
                piece = b"".join((*parts, piece)) if whole else parts[0]
                parts, held = [], 0
            yield piece if whole else piece[:KEPT_OF_DAMAGED], whole
            whole = True
        if rest and whole:
            parts.append(rest)
            held += len(rest)
            if held > limit:
                parts, whole = [b"".join(parts)[:KEPT_OF_DAMAGED]], False
    if any_block and parts:
        yield b"".join(parts), whole
