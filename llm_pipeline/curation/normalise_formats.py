"""Files that are one document each as drafts: what a text, page, PDF, Word document or e-mail says, and what was changed to get at it."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm_pipeline.curation.boilerplate import read_page
from llm_pipeline.curation.decoding import decode, decode_page
from llm_pipeline.curation.normalise_text import repair, title_of
from llm_pipeline.curation.poison import PoisonPolicy, hidden_instruction
from llm_pipeline.curation.raw_records import DOCX, EMAIL, HTML, MARKDOWN, PDF

_FOLDERS = {"articles": "article", "web": "web", "notes": "note", "conversations": "conversation", "docs": "doc"}
MAX_PDF_PAGES = 20_000
MAX_PDF_SECONDS = 300
"""CPU seconds for the text of one PDF; looked at after each page."""
_HEADING = re.compile(r"^#+\s+(.+)$", re.M)


class Unusable(Exception):
    """This row has no usable text; `args` are the reason code and a detail."""


@dataclass(frozen=True)
class Draft:
    """A document before it has language and id."""

    kind: str
    title: str
    text: str
    messages: tuple[dict[str, str], ...] = ()
    changes: tuple[str, ...] = ()


def finished(kind: str, title: str, text: str, changes: tuple[str, ...] = ()) -> Draft:
    """The draft of a plain text: repaired, and with its first line as title where it has none."""
    mended, damaged = repair(text)
    named = title_of(repair(title)[0]) if title else ""
    return Draft(kind, named or title_of(mended), mended, (), (*changes, "encoding_repaired") if damaged else changes)


def from_file(media: str, content: bytes, uri: str, poison: PoisonPolicy | None) -> Draft:
    """The document in a file of `media` type; raises Unusable with a reason code."""
    if media == PDF:
        return _from_pdf(content)
    if media == DOCX:
        return _from_docx(content)
    if media == EMAIL:
        return _from_email(content, poison)
    try:
        text, encoding = decode_page(content) if media == HTML else decode(content)
    except ValueError as error:
        raise Unusable("undecodable", str(error)) from error
    changes = () if encoding == "utf-8" else ("decoded_from_other_encoding",)
    if media == HTML:
        return from_html(text, poison, changes=changes)
    heading = _HEADING.search(text) if media == MARKDOWN else None
    return finished(_folder_kind(uri) or "doc", heading.group(1) if heading else "", text, changes)


def _folder_kind(uri: str) -> str | None:
    """The kind of a file by the folder that it lies in, such as `notes/`."""
    return next((_FOLDERS[part] for part in reversed(uri.split("/")[:-1]) if part in _FOLDERS), None)


def from_html(page: str, poison: PoisonPolicy | None, title: str = "", kind: str = "web", changes: tuple[str, ...] = ()) -> Draft:
    """The main text of a page; with `poison`, instructions where no reader sees them make it Unusable."""
    found = read_page(page)
    if found.hidden and poison and hidden_instruction(found.hidden, poison):
        raise Unusable("hidden_instruction", "in markup that a browser does not show")
    if not found.text:
        raise Unusable("no_main_text", "the page is all navigation and boilerplate, or not HTML")
    changes = (*changes, "hidden_markup_removed") if found.hidden else changes
    return finished(kind, title or found.title, found.text, (*changes, "boilerplate_stripped"))


def _from_pdf(content: bytes) -> Draft:
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        pages = list(_pages(reader))
        title = str((reader.metadata or {}).get("/Title", "") or "")
    except Unusable:
        raise
    except Exception as error:  # pypdf raises many kinds on hostile files
        raise Unusable("broken_pdf", type(error).__name__) from error
    if not any(page.strip() for page in pages):
        raise Unusable("no_text", "the PDF has no text layer (scanned pages?)")
    return finished("doc", "" if title == "untitled" else title, "\n\n".join(pages))


def _pages(reader: Any) -> Iterator[str]:
    """The text of each page, as long as there are not too many and they take no longer than honest ones do."""
    if len(reader.pages) > MAX_PDF_PAGES:
        raise Unusable("too_many_pages", f"{len(reader.pages)} pages, the limit is {MAX_PDF_PAGES}")
    begun = time.thread_time()
    for number, page in enumerate(reader.pages, 1):
        yield page.extract_text()
        if time.thread_time() - begun > MAX_PDF_SECONDS:
            raise Unusable("slow_pdf", f"{number} of {len(reader.pages)} pages took more than {MAX_PDF_SECONDS} CPU seconds")


def _from_docx(content: bytes) -> Draft:
    from docx import Document

    try:
        document = Document(io.BytesIO(content))
        parts = list(_blocks(document))
        title = document.core_properties.title or ""
    except Exception as error:  # python-docx and lxml raise many kinds on hostile files
        raise Unusable("broken_docx", type(error).__name__) from error
    return finished("doc", title, "\n\n".join(part for part in parts if part.strip()))


def _blocks(container: Any) -> Iterator[str]:
    """Paragraphs, and tables a line per row, in the order of the document."""
    for block in container.iter_inner_content():
        if hasattr(block, "rows"):
            yield "\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
        else:
            yield block.text


def _from_email(content: bytes, poison: PoisonPolicy | None) -> Draft:
    """Subject and body; addresses and other headers are no text to learn from, and attachments are left out, which the ledger says."""
    from email import message_from_bytes, policy

    try:
        message = message_from_bytes(content, policy=policy.default)
        subject = str(message.get("subject") or "")
        body = message.get_body(("plain", "html"))
        text = str(body.get_content()) if body is not None else ""
        is_page = body is not None and body.get_content_type() == HTML
        left_out = any(True for _ in message.iter_attachments()) if message.is_multipart() else False
        known = bool(message.keys())
    except Exception as error:  # the parser raises many kinds on hostile headers, attribute and index errors among them
        raise Unusable("broken_email", type(error).__name__) from error
    if not known:
        raise Unusable("broken_email", "no header before the text")
    changes = ("attachments_left_out",) if left_out else ()
    return from_html(text, poison, subject, "doc", changes) if is_page else finished("doc", subject, text, changes)
