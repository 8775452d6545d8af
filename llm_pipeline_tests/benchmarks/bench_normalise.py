"""Reading and normalising: MB of text per CPU second by format, what 10,000 tiny files cost, and peak memory at 1, 4 and 16 times.

The text is this interpreter's documentation strings, several to a document, so that a document has about 2,300 characters.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import typer
import zstandard
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.python_docs import doc_strings

RUN = """
import json, re, sys, time
from pathlib import Path
from llm_pipeline.curation.language import identify
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.readers import raw_batches, read_file
from llm_pipeline.curation.sources import Source
identify(["Load the model before the clock starts."])
source, root = Source("bench", "files", "none", "me", "mine", uri="/"), Path(sys.argv[1])
paths = sorted(path for path in root.rglob("*") if path.is_file())
begun, reading, documents = time.process_time(), 0.0, 0
batches = raw_batches(source, (record for path in paths for record in read_file(path, root)))
while True:
    before = time.process_time()
    raw = next(batches, None)
    reading += time.process_time() - before
    if raw is None:
        break
    documents += normalise(raw, "2026-01-01")[0].num_rows
total = time.process_time() - begun
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024  # ru_maxrss would be the parent's too
print(json.dumps({"total": total, "reading": reading, "documents": documents, "peak": peak}))
"""


def corpus(megabytes: float) -> Iterator[str]:
    """Documents until there is enough; a repeated one has a number, so that no two are the same."""
    docs = [doc.text for doc in doc_strings()]
    whole = ["\n\n".join(docs[i : i + 4]) for i in range(0, len(docs), 4)]
    made, number = 0, 0
    while made < megabytes * 1e6:
        text = f"{whole[number % len(whole)]}\n\n{number}"
        made, number = made + len(text.encode()), number + 1
        yield text


def rows(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


def _csv(texts: list[str]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerows([("id", "text"), *enumerate(texts)])
    return sink.getvalue().encode()


def _parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), sink)
    return sink.getvalue()


def _zip(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", rows(texts))
    return sink.getvalue()


def _page(text: str) -> str:
    paragraphs = "".join(f"<p>{part.replace('<', '&lt;')}</p>" for part in text.split("\n\n"))
    return f"<html><head><title>Page</title></head><body><nav><a href='/'>Home</a></nav><main>{paragraphs}</main></body></html>"


FORMATS: Mapping[str, Callable[[list[str]], bytes]] = {
    "jsonl": rows,
    "jsonl.gz": lambda texts: gzip.compress(rows(texts)),
    "jsonl.zst": lambda texts: zstandard.ZstdCompressor().compress(rows(texts)),
    "zip": _zip,
    "csv": _csv,
    "parquet": _parquet,
    "jsonl of pages": lambda texts: "".join(json.dumps({"html": _page(text)}) + "\n" for text in texts).encode(),
    "jsonl, not ASCII": lambda texts: rows([text.replace(" the ", " thé ").replace("on", "ön").replace("'", "’") for text in texts]),
}


def measured(folder: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", RUN, str(folder)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def by_format(megabytes: float) -> Table:
    table = Table("format", "documents", "MB per CPU s", "reading alone", "normalising alone", "peak MB")
    for name, packed in FORMATS.items():
        texts = list(corpus(megabytes / 10 if "pages" in name else megabytes))
        size = sum(len(text.encode()) for text in texts) / 1e6
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"a.{name.split(' of')[0].split(',')[0]}").write_bytes(packed(texts))
            found = measured(Path(folder))
        rates = (size / found["total"], size / found["reading"], size / (found["total"] - found["reading"]))
        table.add_row(name, f"{found['documents']:,.0f}", *(f"{rate:.1f}" for rate in rates), f"{found['peak']:.0f}")
    return table


def by_size(megabytes: float) -> Table:
    table = Table("JSONL MB", "documents", "MB per CPU s", "peak MB")
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory() as folder:
            with (Path(folder) / "a.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(corpus(megabytes * times)))
            found = measured(Path(folder))
        table.add_row(
            f"{megabytes * times:.0f}",
            f"{found['documents']:,.0f}",
            f"{megabytes * times / found['total']:.1f}",
            f"{found['peak']:.0f}",
        )
    return table


def tiny_files(number: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        for i in range(number):
            path = Path(folder) / f"{i % 100:02d}" / f"{i}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"This is the small text number {i}.")
        found = measured(Path(folder))
    each = found["total"] / number * 1e6
    return f"{found['documents']:,.0f} tiny files: {found['total']:.1f} CPU s ({each:.0f} microseconds each), peak {found['peak']:.0f} MB"


def main(
    megabytes: float = typer.Option(8.0, help="Megabytes of text per format, and of the smallest JSONL."),
    files: int = typer.Option(10_000, help="How many tiny files."),
) -> None:
    console = Console(width=120)
    console.print(by_format(megabytes))
    console.print(by_size(megabytes))
    console.print(tiny_files(files))


if __name__ == "__main__":
    typer.run(main)
