"""What every reader gives: one record per row, with where it came from and why it cannot be used when it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_ROW = 32 << 20
"""Bytes of one row or one text file; a longer one is quarantined and what follows it goes on."""
MAX_MARKUP = 8 << 20
"""Bytes of one page: parsing markup takes twenty times its size."""
MAX_BINARY = 256 << 20
"""Bytes of one PDF, Word document or e-mail."""
KEPT_OF_DAMAGED = 4096
"""Bytes of a damaged row or file that are kept to look at."""

JSON = "application/json"
TEXT, MARKDOWN, HTML = "text/plain", "text/markdown", "text/html"
PDF, EMAIL = "application/pdf", "message/rfc822"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@dataclass(slots=True)
class Record:
    """One row as read; `problem` is `reason: detail`. The content of a row format is always UTF-8 JSON, whatever the file was in."""

    uri: str
    row: int
    media_type: str
    content: bytes
    external_id: str | None = None
    problem: str | None = None
    day: str | None = None
    encoding: str | None = None
    """What the row was decoded from where that was not UTF-8."""
    retrieved_at: str | None = None
    parsed: Mapping[str, Any] | None = None
    """What the JSON says, where the reader had to parse it anyway."""


def broken(uri: str, row: int, media_type: str, content: bytes, problem: str) -> Record:
    """A record of something that cannot be used, with the beginning of it."""
    return Record(uri, row, media_type, content[:KEPT_OF_DAMAGED], problem=problem)


def short(error: BaseException) -> str:
    """Type and first line of an error, for a reason."""
    message = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {message}"[:160].encode("utf-8", "replace").decode()
