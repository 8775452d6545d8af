"""A small good file of every format."""

from __future__ import annotations

import io
import json
from email.message import EmailMessage

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [{"id": "a", "text": "The first text."}, {"id": "b", "text": "The second text."}]


def jsonl(rows: list[dict[str, str]] = ROWS) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, str]] = ROWS, row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=row_group_size)
    return sink.getvalue()


def pdf(text: str = "Hello from a page.") -> bytes:
    from reportlab.pdfgen.canvas import Canvas

    sink = io.BytesIO()
    canvas = Canvas(sink)
    canvas.drawString(72, 720, text)
    canvas.save()
    return sink.getvalue()


def docx() -> bytes:
    from docx import Document

    document = Document()
    document.core_properties.title = "Opening hours"
    document.add_paragraph("The branch opens at nine.")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Monday", "nine to five"
    document.add_paragraph("It is closed on Sundays.")
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()


def email(attachment: bool = False, page: bool = False) -> bytes:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Your card — news", "bank@example.org", "someone@example.org"
    message.set_content("The new card arrives on Monday.\nIt replaces the old one.\n")
    if page:
        message.set_content("<html><body><p>The new card arrives on Monday.</p><p>It is blue.</p></body></html>", subtype="html")
    if attachment:
        message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="terms.pdf")
    return message.as_bytes()


PAGE = (
    b"<html><head><title>Fees</title></head><body><main><p>The fee is four dollars a month.</p>"
    b"<p>Students pay nothing.</p></main></body></html>"
)
SAMPLES: dict[str, bytes] = {
    "txt": b"Plain text.",
    "md": b"# Title\n\nText.",
    "html": PAGE,
    "htm": PAGE,
    "pdf": pdf(),
    "docx": docx(),
    "eml": email(),
    "jsonl": jsonl(),
    "csv": b"id,text\na,First\nb,Second\n",
    "parquet": parquet(),
}
