"""Spans in OTLP's bytes, and their way to a collector over HTTP.

The SDK's exporter takes 20 MB of a process's memory for these few messages, which are fixed for good by OTLP's stability guarantee:
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from __future__ import annotations

import gzip
import http.client
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of spans."""
_SAMPLED = 0x101
"""Flags: sampled, and it is known whether the parent is remote."""
_AGAIN = (429, 502, 503, 504)
"""Answers after which a collector may be tried again."""


@dataclass(frozen=True)
class Span:
    """Times are nanoseconds since 1970, ids hex digits."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    started: int
    ended: int
    attributes: Mapping[str, Any]
    error: str | None = None
    """What failed; None when nothing did."""

    def encoded(self) -> bytes:
        parts = [_bytes(1, bytes.fromhex(self.trace_id)), _bytes(2, bytes.fromhex(self.span_id))]
        parts += [_bytes(4, bytes.fromhex(self.parent_id))] if self.parent_id else []
        parts += [_bytes(5, self.name.encode()), _number(6, self.kind)]
        parts += [struct.pack("<BQBQ", 7 << 3 | 1, self.started, 8 << 3 | 1, self.ended)]
        parts += [_bytes(9, pair) for pair in _pairs(self.attributes)]
        parts += [] if self.error is None else [_bytes(15, _bytes(2, self.error.encode()) + _number(3, 2))]
        return b"".join([*parts, _varint(16 << 3 | 5), struct.pack("<I", _SAMPLED)])


def encode(spans: Sequence[Span], service: str) -> bytes:
    """An ExportTraceServiceRequest."""
    resource = b"".join(_bytes(1, pair) for pair in _pairs({"service.name": service}))
    scope = _bytes(1, _bytes(1, b"llm_pipeline"))
    return _bytes(1, _bytes(1, resource) + _bytes(2, scope + b"".join(_bytes(2, span.encoded()) for span in spans)))


def _pairs(attributes: Mapping[str, Any]) -> list[bytes]:
    return [_bytes(1, name.encode()) + _bytes(2, _value(value)) for name, value in attributes.items()]


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return _number(2, value)
    if isinstance(value, int):
        return _number(3, value)
    if isinstance(value, float):
        return struct.pack("<Bd", 4 << 3 | 1, value)
    if isinstance(value, list | tuple):
        return _bytes(5, b"".join(_bytes(1, _value(item)) for item in value))
    return _bytes(1, str(value).encode("utf-8", "replace"))


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Sender:
    """Posts to one collector; one that is busy or away is tried again within the time."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], seconds: float) -> None:
        self._endpoint, self._seconds, self._ending = endpoint, seconds, threading.Event()
        self._headers = {**headers, "content-type": "application/x-protobuf", "content-encoding": "gzip"}

    def end(self) -> None:
        """No further tries."""
        self._ending.set()

    def send(self, body: bytes) -> str | None:
        """Why the collector did not take it; None when it did."""
        packed, until, pause = gzip.compress(body), time.monotonic() + self._seconds, 1.0
        while True:
            failure, again = self._post(packed, max(until - time.monotonic(), 0.05))
            if failure is None or not again or time.monotonic() + pause > until or self._ending.wait(pause):
                return failure
            pause *= 2

    def _post(self, body: bytes, seconds: float) -> tuple[str | None, bool]:
        """What went wrong, and whether another try may help."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self._endpoint, body, self._headers), timeout=seconds):
                return None, False
        except urllib.error.HTTPError as refused:
            refused.close()
            return f"HTTP {refused.code}", refused.code in _AGAIN
        except (OSError, http.client.HTTPException) as error:
            return repr(error), True
