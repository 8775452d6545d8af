"""Files that are one document each: text, Markdown, HTML, PDF, Word and e-mail; what cannot be opened says so here already."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Iterator

from llm_pipeline.curation.decoding import decode
from llm_pipeline.curation.raw_records import DOCX, EMAIL, HTML, MAX_BINARY, MAX_MARKUP, MAX_ROW, PDF, Record, broken, short
from llm_pipeline.curation.unpack import MAX_RATIO, RATIO_FROM, Stream

logging.getLogger("pypdf").setLevel(logging.ERROR)
"""Its warnings name no file; what makes a PDF unreadable is the record's problem."""
Reader = Callable[[Stream, str], Iterator[Record]]


def _stem(uri: str) -> str:
    """A file that is one document is known by its name."""
    return uri.rsplit("/", 1)[-1].split(".", 1)[0]


def text_reader(media_type: str) -> Reader:
    limit = MAX_MARKUP if media_type == HTML else MAX_ROW

    def problem(data: bytes) -> str | None:
        try:
            text, _ = decode(data)
        except ValueError as error:
            return str(error)
        return "nul_bytes: the text has NUL characters" if "\0" in text else None

    return _reader(media_type, limit, problem)


def _reader(media_type: str, limit: int, problem_of: Callable[[bytes], str | None]) -> Reader:
    def read(stream: Stream, uri: str) -> Iterator[Record]:
        data, whole = stream.whole(limit)
        if not whole:
            yield broken(uri, 0, media_type, data, f"too_large: more than {limit} bytes")
        elif data and (problem := problem_of(data)):
            yield broken(uri, 0, media_type, data, problem)
        elif data:
            yield Record(uri, 0, media_type, data, _stem(uri))

    return read


def _pdf_problem(data: bytes) -> str | None:
    from pypdf import PdfReader

    try:
        return None if len(PdfReader(io.BytesIO(data)).pages) else "broken_pdf: no pages"
    except Exception as error:  # pypdf raises many kinds on hostile files, recursion and key errors among them
        return f"broken_pdf: {short(error)}"


def _docx_problem(data: bytes) -> str | None:
    """A Word document is an archive, so it can be a bomb as well."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
            names = archive.namelist()
    except Exception as error:  # zipfile raises many kinds on hostile files, struct and index errors among them
        return f"broken_docx: {short(error)}"
    if size > min(MAX_BINARY, max(RATIO_FROM, MAX_RATIO * len(data))):
        return f"bomb: {len(data)} packed bytes unpack to {size}"
    return None if "[Content_Types].xml" in names else "broken_docx: an archive, but no Word document"


read_pdf = _reader(PDF, MAX_BINARY, _pdf_problem)
read_docx = _reader(DOCX, MAX_BINARY, _docx_problem)
read_email = _reader(EMAIL, MAX_BINARY, lambda _: None)
