"""`llm-pipeline curate` on a growing corpus: CPU seconds by stage, MB of text per CPU second, and peak memory at 1, 4 and 16 times.

The text is this interpreter's documentation strings, repeated with other words so that copies are no duplicates.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.python_docs import doc_strings

RUN = """
import json, sys
from pathlib import Path
from llm_pipeline.curation.curate import curate
from llm_pipeline.shell import lean
lean()
summary = curate(Path(sys.argv[1]), Path(sys.argv[2]))
[peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(json.dumps(summary | {"peak_mb": int(peak) / 1024}))
"""


def texts(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documentation with some words replaced by others of the corpus until there is enough; one in ten is a near duplicate."""
    docs = [doc.text for doc in doc_strings() if len(doc.text) > 200]
    words = sorted({word for text in docs[:2000] for word in text.split() if word.isalpha()})
    r, made, earlier = random.Random(seed), 0, [""]
    while made < megabytes * 1e6:
        copied = r.random() < 0.1 and earlier[-1]
        source, share = (r.choice(earlier), 0.01) if copied else (r.choice(docs), 0.3)
        text = " ".join(r.choice(words) if r.random() < share else word for word in source.split(" "))
        earlier = [*earlier[-500:], text]
        made += len(text.encode())
        yield text


def longer(texts: Iterable[str], length: int) -> Iterator[str]:
    """The texts, joined until each has so many characters."""
    parts: list[str] = []
    for text in texts:
        parts.append(text)
        if sum(map(len, parts)) >= length:
            yield "\n\n".join(parts)
            parts = []


def run(megabytes: float, folder: Path, length: int) -> dict[str, Any]:
    path = folder / "corpus.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(longer(texts(megabytes), length)):
            file.write(json.dumps({"id": number, "text": text}) + "\n")
    done = subprocess.run([sys.executable, "-c", RUN, str(path), str(folder / "out")], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(
    base: float = typer.Option(2.0, help="Megabytes of the smallest corpus."),
    length: int = typer.Option(0, help="Characters that a document has at least: 3000 for web pages; 0 for 640 on average."),
) -> None:
    table = Table("MB", "documents", "MB per CPU s", "CPU s by stage", "peak MB")
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory() as folder:
            summary = run(base * times, Path(folder), length)
        seconds = {name: stage["cpu_seconds"] for name, stage in summary["stages"].items()}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        rate = base * times / max(0.01, sum(seconds.values()))
        table.add_row(f"{base * times:.0f}", f"{summary['received']:,}", f"{rate:.2f}", shown, f"{summary['peak_mb']:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
