"""`llm-pipeline filter` by part: MB of text per CPU second (medians of runs after a first one), and which part is the slowest.

The text is this interpreter's documentation strings, repeated with other words; `--path` takes a Parquet file with a column `text`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.language import identify
from llm_pipeline.curation.poison import findings
from llm_pipeline.curation.poison_corpus import survey
from llm_pipeline.curation.quality import chunks, filter_batches, load_policy
from llm_pipeline.curation.quality_repetition import repetition_scores
from llm_pipeline.curation.quality_scores import quality_scores
from llm_pipeline.curation.quality_view import View
from llm_pipeline.curation.toxicity import toxicity
from llm_pipeline_tests.benchmarks.bench_curation import texts as documentation


def main(megabytes: float = 8.0, runs: int = 5, path: Path | None = None) -> None:
    made = pq.read_table(path, columns=["text"])["text"].to_pylist() if path else list(documentation(megabytes))
    size = sum(len(text.encode()) for text in made) / 1e6
    corpus = pa.table({"id": [str(number) for number in range(len(made))], "text": made})
    seconds: dict[str, list[float]] = {}
    for _ in range(runs + 1):
        for part, spent in _run(corpus, made).items():
            seconds.setdefault(part, []).append(spent)
    medians = {part: statistics.median(spent[1:]) for part, spent in seconds.items()}
    table = Table("part", "CPU s", "MB a CPU s", title=f"{len(made)} texts, {size:.1f} MB")
    for part, median in medians.items():
        table.add_row(part, f"{median:.3f}", f"{size / median:.1f}")
    Console().print(table)
    parts = {part: median for part, median in medians.items() if part not in ("filter", "language of every text")}
    Console().print(f"the slowest part of filter: {max(parts, key=lambda part: parts[part])}")


def _run(corpus: pa.Table, made: list[str]) -> dict[str, float]:
    policy = load_policy()
    seconds: dict[str, float] = {}

    def timed(part: str, action: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = action()
        seconds[part] = seconds.get(part, 0.0) + time.process_time() - started
        return result

    timed("filter", lambda: sum(table.num_rows for table in filter_batches(lambda: iter([corpus]), policy)))
    timed("language of every text", lambda: identify(made))
    timed("poison of the corpus", lambda: survey(lambda: iter([corpus]), policy.poison))
    for first, last in chunks(made):
        view = timed("cutting and hashing", lambda some=made[first:last]: _cut(some))
        timed("repetition", lambda view=view: repetition_scores(view))
        timed("all quality scores, with repetition", lambda view=view: quality_scores(view))
        timed("toxicity", lambda view=view: toxicity(view, [True] * view.count, policy.toxicity))
        timed("poison of each text", lambda view=view: findings(view, policy.poison))
    return seconds


def _cut(some: list[str]) -> View:
    view = View(some)
    _ = view.words, view.tokens, view.token_slots, view.lines, view.paragraphs
    return view


if __name__ == "__main__":
    typer.run(main)
