"""How well passages are found, and how fast: quality by search mode, approximate indexes against the exact scan, a million vectors.

Quality: XQuAD English, its paragraphs cut into sentences; a question's relevant passage is the one sentence of its paragraph that
holds the answer (questions with several such sentences are left out). The reranker's weights are learnt from the questions of every
other article and measured on those of the rest. Speed: synthetic unit vectors, once in clusters of clusters and asked for perturbed
members (easy), once without clusters and asked for vectors that are not in the index. The latter are hard: of 10,000, the nearest has
cosine .61, in a neighbourhood of 26 dimensions; of the sentences of XQuAD and of Python's documentation .63 to .69, and 14 to 17. Each
part runs in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.quiet import quiet
from llm_pipeline.retrieval.chunking import SCHEMA
from llm_pipeline.retrieval.corpus import answer
from llm_pipeline.retrieval.embedding import Embedder, Vectors
from llm_pipeline.retrieval.generation import write_generation
from llm_pipeline.retrieval.index import build_generation
from llm_pipeline.retrieval.learn import learn
from llm_pipeline.retrieval.metrics import score_results
from llm_pipeline.retrieval.replay import percentiles
from llm_pipeline.retrieval.rerank import LightReranker, Weights
from llm_pipeline.retrieval.search import Mode, Searcher

XQUAD = Path(__file__).resolve().parents[3] / "shared" / "data" / "xquad"
PARAGRAPHS = 5
"""Of each article, one after another."""
SIZE, LARGE, DIMENSIONS, QUERIES = 100_000, 1_000_000, 384, 100
Question = tuple[str, str, list[str]]
console = Console()


def sentences() -> tuple[dict[str, str], list[Question], list[Question]]:
    """Sentences by id, and the questions of the odd and of the even articles with their sentence's id."""
    texts: dict[str, str] = {}
    for row in map(json.loads, (XQUAD / "en_passages.jsonl").read_text("utf-8").splitlines()):
        for i, sentence in enumerate(re.split(r'(?<=[.!?])\s+(?=["“(]?[A-Z0-9])', row["text"])):
            texts[f"{row['id']}.{i}"] = sentence
    halves: tuple[list[Question], list[Question]] = [], []
    for row in map(json.loads, (XQUAD / "en_questions.jsonl").read_text("utf-8").splitlines()):
        held = [name for name, text in texts.items() if name.split(".")[0] == row["passage_id"] and row["answer"] in text]
        if len(held) == 1:
            halves[int(row["passage_id"][1:]) // PARAGRAPHS % 2].append((row["id"], row["question"], held))
    return texts, halves[1], halves[0]


def quality() -> None:
    if not XQUAD.is_dir():
        console.print(f"no {XQUAD}: quality is not measured")
        return
    texts, odd, even = sentences()
    embedder = Embedder()
    embedder.dimensions  # noqa: B018 - loads it
    row = dict.fromkeys(SCHEMA.names, "") | {"external_id": None, "kind": "doc", "labels": [], "position": 0, "tokens": 0}
    rows = [row | dict.fromkeys(("id", "document_id", "uri"), name) | {"text": text} for name, text in texts.items()]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        artifact = build_generation(Path(folder), pa.Table.from_pylist(rows, schema=SCHEMA), embedder)
        rate = len(rows) / (time.perf_counter() - started)
        searcher = Searcher(artifact.path, embedder)
        weights, used = learn(searcher, odd)
        learnt = LightReranker(np.load(artifact.path / "documents.npy"), searcher.count, Weights(*weights))
        names = ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10")
        table = Table("method", *names, "p50 ms", "p95 ms", title=f"{len(texts):,} sentences, {len(even)} questions of held-out articles")
        ways: list[tuple[str, Mode, bool, Any]] = [
            ("exact vectors", "vector", False, None),
            ("full text", "text", False, None),
            ("fusion", "hybrid", False, None),
            ("fusion + light reranker, shipped weights", "hybrid", True, searcher.reranker),
            (f"fusion + light reranker, learnt on the odd articles ({used} questions)", "hybrid", True, learnt),
        ]
        for name, mode, rerank, reranker in ways:
            searcher.reranker = reranker
            seconds: list[float] = []
            found = list(answer(searcher, even, 10, mode, rerank=rerank, each=seconds.append))
            scores, took = score_results(found, {identity: relevant for identity, _, relevant in even}), percentiles(seconds)
            table.add_row(name, *(f"{scores[key]:.3f}" for key in names), f"{took['p50']:.1f}", f"{took['p95']:.1f}")
        console.print(table)
        fresh = Embedder(dtype=embedder.dtype)
        fresh._encoder = embedder._encoder
        took = percentiles(timed(lambda i: fresh(even[i][1]), min(100, len(even))))
    console.print(
        f"times without embedding the question, which takes {took['p50']:.1f} ms; build {rate:.0f} sentences/s, "
        f"embedding included ({embedder.dtype}, {embedder.threads or 'all'} threads); learnt weights {weights}"
    )


def vectors(rows: int, seed: int = 0, *, hard: bool = False) -> Vectors:
    """Unit vectors of shape (rows, DIMENSIONS), made in blocks: in 40 groups of 25 clusters each, or `hard` ones without any."""
    rng = np.random.default_rng(seed)
    shape = ((1 + np.arange(DIMENSIONS) / 8) ** -1.0 if hard else (1 + np.arange(DIMENSIONS) / 24) ** -0.5).astype(np.float32)
    layout = np.random.default_rng(1)
    groups = layout.normal(size=(40, DIMENSIONS)).astype(np.float32)
    centres = (groups[:, None] + 0.8 * layout.normal(size=(40, 25, DIMENSIONS)).astype(np.float32)).reshape(-1, DIMENSIONS)
    centres *= not hard
    result = np.empty((rows, DIMENSIONS), np.float32)
    for start in range(0, rows, 50_000):
        n = min(50_000, rows - start)
        block = (centres[rng.integers(0, len(centres), n)] + 1.0 * rng.standard_normal((n, DIMENSIONS), np.float32)) * shape
        result[start : start + n] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return result


def exact(matrix: Vectors, queries: Vectors, k: int = 10) -> list[set[str]]:
    return [{str(i) for i in np.argpartition(-(matrix @ query), k)[:k]} for query in queries]


def timed(call: Callable[[int], Any], n: int) -> list[float]:
    seconds = []
    for i in range(n):
        started = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - started)
    return seconds


def generation(folder: Path, matrix: Vectors) -> float:
    """Write the vectors as a generation with a short text each; the seconds that took."""
    ids = pa.array([str(i) for i in range(len(matrix))])
    words = [f"item {i % 997} of lot {i % 89}" for i in range(len(matrix))]
    same: Any = pa.array(["x"]).dictionary_encode()
    rows = pa.table({"id": ids, "document_id": ids, "uri": ids} | dict.fromkeys(("source", "kind", "title"), _repeat(same, len(matrix))))
    rows = rows.append_column("text", pa.array(words))
    started = time.perf_counter()
    write_generation(folder, rows, words, matrix, None, np.zeros(1, np.int64), Embedder().space)
    return time.perf_counter() - started


def _repeat(value: Any, n: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), value.dictionary).cast(pa.string())


def asked(matrix: Vectors, *, hard: bool) -> Vectors:
    if hard:
        return vectors(QUERIES, 2, hard=True)
    rng = np.random.default_rng(2)
    return matrix[rng.integers(0, len(matrix), QUERIES)] + 0.03 * rng.standard_normal((QUERIES, DIMENSIONS), np.float32)


def approximate() -> None:
    for hard in (False, True):
        compare(hard=hard)


def compare(*, hard: bool) -> None:
    """A search as the product does it, fields of the passages included, and other index types of LanceDB over the same vectors."""
    from lancedb.index import HnswSq, IvfPq

    matrix = vectors(SIZE, hard=hard)
    queries = asked(matrix, hard=hard)
    table = Table("index", "recall@10", "p50 ms", "p95 ms", "CPU ms", "exact CPU ms", "of exact", "build s")
    table.title = f"{SIZE:,} {'hard' if hard else 'easy'} vectors of {DIMENSIONS} dimensions"
    with tempfile.TemporaryDirectory() as folder:
        built = generation(Path(folder), matrix)
        searcher = Searcher(Path(folder), reranker=None)
        searched = searcher.facts["search"]
        name = f"IVF_SQ, nprobes {searched['nprobes']}, refined {searched['refined']} times (chosen; with passages)"
        table.add_row(
            name, *_compared(lambda q: searcher.passages.rows(searcher.nearest(q, 10)), folder, matrix, queries), f"{built:.1f} (all)"
        )
        others: list[tuple[str, Any, dict[str, int]]] = [
            ("IVF_PQ, nprobes 20, refine 10 (ids only)", IvfPq(distance_type="cosine"), {"nprobes": 20, "refine_factor": 10}),
            ("IVF_HNSW_SQ, ef 100, refine 3 (ids only)", HnswSq(distance_type="cosine"), {"ef": 100, "refine_factor": 3}),
        ]
        for name, config, settings in others:
            started = time.perf_counter()
            lancedb.connect(f"{folder}/lancedb").open_table("chunks").create_index("vector", config=config, replace=True)
            built = time.perf_counter() - started
            table.add_row(name, *_compared(_bare(folder, settings), folder, matrix, queries), f"{built:.1f}")
    console.print(table)


def _bare(folder: str, settings: dict[str, Any]) -> Callable[[Vectors], list[dict[str, Any]]]:
    """A search in Lance's own reader, for the rows' numbers only."""
    table = lance.dataset(f"{folder}/lancedb/chunks.lance")

    def ask(query: Vectors) -> list[dict[str, Any]]:
        nearest = {"column": "vector", "q": query, "k": 10, "metric": "cosine"} | settings
        found = table.scanner(["_distance"], nearest=nearest, with_row_id=True).to_table()
        return [{"id": str(number)} for number in found["_rowid"].to_pylist()]

    return ask


def _compared(ask: Callable[[Vectors], list[dict[str, Any]]], folder: str, matrix: Vectors, queries: Vectors) -> list[str]:
    """Recall, times and the times of an exact scan that takes turns with it."""
    scan, truth = _bare(folder, {"use_index": False}), exact(matrix, queries)
    found: list[set[str]] = []
    spent: tuple[list[float], list[float]] = ([], [])
    for query in queries[:3]:
        ask(query), scan(query)
    walls = []
    for i, query in enumerate(queries):
        for call, times in zip((ask, scan)[: 1 + (i % 4 == 0)], spent, strict=False):
            wall, started = time.perf_counter(), time.process_time()
            rows = call(query)
            times.append(time.process_time() - started)
            if call is ask:
                walls.append(time.perf_counter() - wall)
                found.append({row["id"] for row in rows})
    recall = np.mean([len(a & b) / 10 for a, b in zip(truth, found, strict=True)])
    took, (mine, whole) = percentiles(walls), (1000 * float(np.median(times)) for times in spent)
    return [f"{recall:.3f}", f"{took['p50']:.1f}", f"{took['p95']:.1f}", f"{mine:.1f}", f"{whole:.0f}", f"1/{whole / mine:.0f}"]


def million(rows: int = LARGE) -> None:
    """A generation of a million hard vectors as it is built and searched, with the process's peak of memory."""
    matrix = vectors(rows, hard=True)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queries = asked(matrix, hard=True)
    truth = exact(matrix, queries)
    with tempfile.TemporaryDirectory() as folder:
        seconds = generation(Path(folder), matrix)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e9
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        del matrix
        searcher = Searcher(Path(folder), reranker=None)
        for i in range(5):
            searcher.nearest(queries[i], 10)
        found: list[set[str]] = []
        took = percentiles(
            timed(lambda i: found.append({row["id"] for row in searcher.passages.rows(searcher.nearest(queries[i], 10))}), len(queries))
        )
        text = percentiles(timed(lambda i: searcher.passages.rows(searcher.matching(f"what is item {i} of the lot", 10)), 50))
    recall = np.mean([len(a & b) / 10 for a, b in zip(truth, found, strict=True)])
    table = Table(
        "vectors", "build s", "vectors/s", "on disk GB", "peak MB", "of that given vectors MB", "recall@10", "p50 ms", "full text p50 ms"
    )
    figures = (f"{seconds:.0f}", f"{rows / seconds:,.0f}", f"{size:.1f}", f"{peak:,.0f}", f"{held:,.0f}", f"{recall:.3f}")
    table.add_row(f"{rows:,}", *figures, f"{took['p50']:.1f}", f"{text['p50']:.1f}")
    console.print(table)


PARTS = {"quality": quality, "approximate": approximate, "million": million}


def main(
    part: str = typer.Argument("", help="Only this part: quality, approximate or million."),
    rows: int = typer.Option(LARGE, "--vectors", min=20_000, help="million: so many vectors instead."),
) -> None:
    quiet()
    if part == "million":
        million(rows)
    elif part:
        PARTS[part]()
    else:
        for name in PARTS:
            subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    typer.run(main)
