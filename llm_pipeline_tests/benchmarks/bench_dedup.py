"""Deduplication of the same corpus by this pipeline and by datatrove, and its growth: CPU seconds, peak memory, recall.

Documents are sentences of the interpreter's documentation in new orders; some get copies with changed words, whose similarity is
known. Each run is a process of its own (imports not counted); `--datatrove-python` names an interpreter that can import datatrove.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation import files
from llm_pipeline.curation.dedup import THRESHOLD, dedup_batches
from llm_pipeline.curation.normalise import DOCUMENT_SCHEMA
from llm_pipeline.curation.python_docs import doc_strings
from llm_pipeline.curation.signatures import jaccard, normalise, shingles, sign
from llm_pipeline.curation.snapshot import build_snapshot
from llm_pipeline.store import Home

COPIED, COPIES, ROUNDS = 0.08, 2, 3
GROWTH = (1, 4, 16)
DAYS = (9, 90)
Pair = tuple[int, int, float]


def write_corpus(path: Path, megabytes: float, seed: int = 0) -> list[Pair]:
    """Columns id and text; answers the planted pairs (two rows and their similarity)."""
    r = random.Random(seed)
    sentences = sorted({s.strip() for doc in doc_strings() for s in doc.text.split(". ") if len(s.split()) > 3})
    words = sorted({word for sentence in sentences for word in sentence.split()})
    texts: list[str] = []
    planted: list[Pair] = []
    size = 0.0
    while size < megabytes * 1e6:
        base = len(texts)
        texts.append(". ".join(r.choices(sentences, k=r.randint(2, 14))))
        if r.random() < COPIED:
            texts += [_changed(texts[base], words, r) for _ in range(COPIES)]
            first = shingles(normalise(texts[base]))
            planted += [(base, i, jaccard(first, shingles(normalise(texts[i])))) for i in range(base + 1, len(texts))]
        size += sum(map(len, texts[base:]))
    order = list(range(len(texts)))
    r.shuffle(order)
    row = {number: i for i, number in enumerate(order)}
    table = pa.table({"id": [f"d{i:08d}" for i in range(len(texts))], "text": [texts[number] for number in order]})
    pq.write_table(table, path, row_group_size=4096)
    return [(row[a], row[b], similarity) for a, b, similarity in planted]


def _changed(text: str, words: list[str], r: random.Random) -> str:
    changed = text.split()
    for _ in range(r.randint(1, max(1, len(changed) // 20))):
        at = r.randrange(len(changed))
        changed[at : at + 1] = r.choice([[r.choice(words)], [], [changed[at], r.choice(words)]])
    return " ".join(changed)


def peak_memory() -> float:
    """MB of this process; unlike `getrusage` without those of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1e3


def worker(corpus: Path, folder: Path) -> None:
    """Deduplicate and print CPU seconds, peak memory and the members of clusters."""

    def batches() -> Iterator[pa.Table]:
        with pq.ParquetFile(corpus, pre_buffer=False) as file:
            for batch in file.iter_batches(4096, columns=["id", "text"]):
                yield pa.Table.from_batches([batch])

    begun, out = time.process_time(), folder / "verdicts.parquet"
    writer: pq.ParquetWriter | None = None
    for table in dedup_batches(batches, scratch=folder):
        writer = writer or pq.ParquetWriter(out, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
    seconds, peak = time.process_time() - begun, peak_memory()
    clusters = pq.read_table(out, columns=["id", "cluster_id"]).to_pylist()
    members = [(i, int(row["cluster_id"][1:])) for i, row in enumerate(clusters)]
    print(json.dumps({"seconds": seconds, "peak": peak, "members": members}))


def run(command: list[str], corpus: Path, *last: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, str(corpus), folder, *last], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def quality(corpus: Path, members: list[list[int]], planted: list[Pair]) -> tuple[float, float]:
    """Share of planted pairs above the threshold in one cluster, and of members of clusters with a true twin among the others."""
    cluster: dict[int, int] = dict(members)  # type: ignore[arg-type]
    groups: dict[int, list[int]] = {}
    for row, number in members:
        groups.setdefault(number, []).append(row)
    texts = pq.read_table(corpus, columns=["text"])["text"]
    twins: list[bool] = []
    for rows in groups.values():
        if len(rows) > 1:
            sets = [shingles(normalise(texts[row].as_py())) for row in rows]
            twins += [any(jaccard(a, b) >= THRESHOLD for b in sets if b is not a) for a in sets]
    found = [a in cluster and cluster[a] == cluster.get(b) for a, b, similarity in planted if similarity >= THRESHOLD]
    return sum(found) / max(len(found), 1), sum(twins) / max(len(twins), 1)


def compare(megabytes: float, datatrove: str | None, folder: Path) -> Table:
    corpus = folder / "corpus.parquet"
    planted = write_corpus(corpus, megabytes)
    script = str(Path(__file__).with_name("datatrove_minhash.py"))
    results: dict[str, list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        results.setdefault("this pipeline", []).append(run([sys.executable, __file__, "--worker"], corpus))
        for words in ("stock", "whitespace") if datatrove else ():
            results.setdefault(f"datatrove, {words}", []).append(run([str(datatrove), script], corpus, words))
    above = sum(similarity >= THRESHOLD for _, _, similarity in planted)
    title = f"{megabytes:g} MB, {above} planted pairs at {THRESHOLD} or above, medians of {ROUNDS} alternating runs"
    table = Table("system", "MB a CPU s", "we are", "peak MB", "planted pairs found", "members with a twin", title=title)
    ours = statistics.median(found["seconds"] for found in results["this pipeline"])
    for name, runs in results.items():
        seconds, peak = (statistics.median(found[key] for found in runs) for key in ("seconds", "peak"))
        recall, twins = quality(corpus, runs[0]["members"], planted)
        ratio = "" if seconds == ours else f"{seconds / ours:.1f} x"
        table.add_row(name, f"{megabytes / seconds:.2f}", ratio, f"{peak:.0f}", f"{recall:.4f}", f"{twins:.4f}")
    return table


def growth(megabytes: float, folder: Path) -> Table:
    table = Table("input", "MB", "CPU s", "times the first", "peak MB", "times the first", title="Growth")
    first: dict[str, Any] = {}
    for times in GROWTH:
        corpus = folder / f"x{times}.parquet"
        write_corpus(corpus, megabytes * times, seed=times)
        found = run([sys.executable, __file__, "--worker"], corpus)
        first = first or found
        ratios = [f"{found[key] / first[key]:.2f}" for key in ("seconds", "peak")]
        table.add_row(f"{times} x", f"{megabytes * times:g}", f"{found['seconds']:.2f}", ratios[0], f"{found['peak']:.0f}", ratios[1])
    return table


def partitions(megabytes: float, folder: Path) -> Table:
    """A snapshot of a few and of many days of the same size: the global step must cost no more for each document."""
    homes = {days: Home(folder / f"{days}") for days in DAYS}
    sizes = {days: _fill(home, days, megabytes * days / DAYS[0], folder) for days, home in homes.items()}
    seconds: dict[int, list[float]] = {days: [] for days in DAYS}
    for _ in range(ROUNDS + 1):
        for days, home in homes.items():
            shutil.rmtree(home.artifacts.root / "corpus_snapshot", ignore_errors=True)
            begun = time.process_time()
            build_snapshot(home, window_days=days)
            seconds[days].append(time.process_time() - begun)
    table = Table("days", "documents", "CPU s", "microseconds a document", title=f"Snapshot of daily partitions, medians of {ROUNDS}")
    for days, taken in seconds.items():
        median = statistics.median(taken[1:])
        table.add_row(str(days), str(sizes[days]), f"{median:.2f}", f"{median / sizes[days] * 1e6:.1f}")
    return table


def _fill(home: Home, days: int, megabytes: float, folder: Path) -> int:
    """Documents and signatures of so many days of equal size; answers the number of documents."""
    corpus = folder / f"{days}.parquet"
    write_corpus(corpus, megabytes, seed=days)
    every = pq.read_table(corpus)
    size = every.num_rows // days
    for number in range(days):
        rows = every.slice(number * size, size)
        columns = {field.name: pa.nulls(size, field.type) for field in DOCUMENT_SCHEMA}
        columns |= {"id": rows["id"], "uri": rows["id"], "text": rows["text"], "kind": pa.array(["note"] * size)}
        day = str(date(2026, 1, 1) + timedelta(days=number))
        home.lake.replace("scrubbed_documents", day, pa.table(columns).cast(DOCUMENT_SCHEMA))
        home.lake.replace("signatures", day, sign(files.ids(rows), files.texts(rows)))
    return days * size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--datatrove-python", help="an interpreter that can import datatrove (it is no dependency of this project)")
    parser.add_argument("--worker", nargs=2, type=Path, metavar=("CORPUS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    if not options.datatrove_python:
        print("datatrove is not compared: name an interpreter that has it with --datatrove-python")
    with tempfile.TemporaryDirectory() as folder:
        Console().print(compare(options.megabytes, options.datatrove_python, Path(folder)))
        Console().print(growth(options.megabytes / 2, Path(folder)))
        Console().print(partitions(options.megabytes / 2, Path(folder)))


if __name__ == "__main__":
    main()
