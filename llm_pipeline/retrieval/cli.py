"""`llm-pipeline index`: an index of plain files, searched and kept without Dagster."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from llm_pipeline.shell import HomeOption, JsonOption, open_home, show
from llm_pipeline.store import Artifact, Artifacts

app = typer.Typer(no_args_is_help=True, help="Index generations: build, search, list, roll back, remove old ones.")
Index = Annotated[Path | None, typer.Option("--index", file_okay=False, help="Folder of the index; default: that of the home folder.")]
Questions = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="JSONL (also .gz) or Parquet: query_id or id, and text or question.")
]
RerankerOption = Annotated[str, typer.Option(help="light, a YAML file of weights, or a cross-encoder's folder or hub id.")]


@app.command()
def build(
    corpus: Annotated[
        Path, typer.Argument(exists=True, help="Parquet, JSONL, CSV or a folder: id, text; also title, labels, source, kind.")
    ],
    index: Index = None,
    model: Annotated[str, typer.Option(help="Embedder: all-MiniLM-L6-v2 (comes along), a local folder or a hub id.")] = "all-MiniLM-L6-v2",
    max_tokens: Annotated[int, typer.Option(min=8, help="Longer rows are cut into chunks of at most so many tokens.")] = 160,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that a chunk repeats of the one before it.")] = 0,
    window: Annotated[int, typer.Option(min=0, help="Chunks of so many sentences instead of sections and paragraphs.")] = 0,
    shared: Annotated[int, typer.Option(min=0, help="Sentences that two windows share.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the embedder.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Index a corpus and make it live once it is verified; only new or changed text is embedded, what is gone is gone.

    Example: llm-pipeline index build passages.parquet --index /tmp/index
    """
    from llm_pipeline.curation.files import Corpus
    from llm_pipeline.retrieval.chunking import Sizes
    from llm_pipeline.retrieval.corpus import corpus_chunks
    from llm_pipeline.retrieval.embedding import Embedder
    from llm_pipeline.retrieval.index import build_generation

    started, source = time.monotonic(), Corpus(corpus)
    rows = corpus_chunks(source, Sizes(max_tokens, overlap, window, shared))
    info = {"integer_ids": pa.types.is_integer(source.id_type)}
    with progress("embedding", rows.num_rows) as (_, at):
        embedder = Embedder(model, threads=threads)
        artifact = build_generation(_root(index, home), rows, embedder, progress=lambda done, _: at(done), info=info)
    facts = {"generation": artifact.id, **artifact.info, "reused": artifact.reused, "damaged": len(source.damaged)}
    show({**facts, "seconds": round(time.monotonic() - started, 2)}, as_json)
    for damage in list(source.damaged)[:3]:
        typer.echo(f"left out: {damage.file}, row {damage.row}: {damage.reason}", err=True)


@app.command()
def search(
    questions: Questions,
    out: Annotated[Path, typer.Option(dir_okay=False, help="Parquet file to write: query_id, rank, id, score.")],
    index: Index = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Results per question.")] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, vector or text.")] = "hybrid",
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Whether the reranker orders what was found.")] = True,
    reranker: RerankerOption = "light",
    label: Annotated[list[str] | None, typer.Option(help="Access label of whoever asks; may be repeated.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Only passages of this source; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only passages of this kind; may be repeated.")] = None,
    generation: Annotated[str | None, typer.Option(help="Search this generation instead of the live one.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a file of questions; rows with `relevant` are also scored.

    Example: llm-pipeline index search questions.jsonl --index /tmp/index --k 10 --out results.parquet
    """
    from typing import cast

    from llm_pipeline.curation.files import ParquetOut
    from llm_pipeline.errors import InputError, near
    from llm_pipeline.retrieval.access import Filters
    from llm_pipeline.retrieval.corpus import answer, read_questions, result_table
    from llm_pipeline.retrieval.metrics import score_results
    from llm_pipeline.retrieval.replay import percentiles
    from llm_pipeline.retrieval.search import MODES, Mode, Searcher

    if mode not in MODES:
        raise InputError(f"search mode {mode!r}{near(mode, MODES)}")
    started, asked = time.monotonic(), read_questions(questions)
    artifact = _artifact(_root(index, home), generation)
    searcher = Searcher(artifact.path, reranker=reranker if rerank else None)
    filters = Filters(frozenset(source or ()), frozenset(kind or ()))
    seconds: list[float] = []
    with progress("searching", len(asked)) as (step, _):

        def each(spent: float) -> None:
            seconds.append(spent)
            step()

        options = {"labels": frozenset(label or ()), "filters": filters, "rerank": rerank, "each": each}
        found = list(answer(searcher, asked, k, cast(Mode, mode), **options))  # type: ignore[arg-type]
    with ParquetOut(out) as file:
        file.write(result_table(found, pa.int64() if artifact.info.get("integer_ids") else pa.string()))
    facts = {"questions": len(asked), "results": len(found), "generation": searcher.path.name, "out": str(out)}
    facts |= {"seconds": round(time.monotonic() - started, 2), "search_ms": percentiles(seconds)}
    show({**facts, **score_results(found, {identity: relevant for identity, _, relevant in asked if relevant})}, as_json)


@app.command()
def train(
    questions: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="JSONL: id, question and relevant, the id of its passage.")
    ],
    out: Annotated[Path, typer.Option(help="YAML file of weights to write; pass it to search as --reranker.")],
    index: Index = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn the light reranker's weights from questions with known passages. 200 questions are enough; keep others to measure with.

    Example: llm-pipeline index train questions.jsonl --index /tmp/index --out weights.yaml
    """
    from llm_pipeline.retrieval.corpus import read_questions
    from llm_pipeline.retrieval.learn import learn, write_weights
    from llm_pipeline.retrieval.search import Searcher

    asked = read_questions(questions)
    weights, used = learn(Searcher(_artifact(_root(index, home)).path), asked)
    write_weights(out, weights, f"{used} of {len(asked)} questions of {questions.name}")
    show({"late": weights[0], "text": weights[1], "whole": weights[2], "questions": len(asked), "used": used, "out": str(out)}, as_json)


@app.command()
def replay(
    old: Annotated[str, typer.Argument(help="A generation.")],
    new: Annotated[str | None, typer.Argument(help="Another one; default: the live one.")] = None,
    questions: Annotated[Path | None, typer.Option(exists=True, help="JSONL as for search; default: the interaction log.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Results per question.")] = 10,
    most: Annotated[int, typer.Option(min=1, help="Most questions.")] = 500,
    label: Annotated[list[str] | None, typer.Option(help="Access label of whoever asks; may be repeated.")] = None,
    index: Index = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask two generations the logged questions: how many results stay, and which questions change most.

    Example: llm-pipeline index replay 0123456789abcdef
    """
    from llm_pipeline.retrieval.corpus import read_questions
    from llm_pipeline.retrieval.replay import compare, logged_questions
    from llm_pipeline.retrieval.search import Searcher

    asked = [text for _, text, _ in read_questions(questions)][-most:] if questions else logged_questions(open_home(home), most)
    root = _root(index, home)
    before, after = (Searcher(_artifact(root, name).path) for name in (old, new))
    result = asdict(compare(before, after, asked, k, labels=frozenset(label or ())))
    changed = result.pop("changed")
    show({**result, "changed": changed} if as_json else result, as_json)
    for change in [] if as_json else changed:
        typer.echo(f"  first passage now {change['first'] or 'lost'}, overlap {change['overlap']}: {change['question'][:100]}")


@app.command("list")
def list_(index: Index = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All generations, newest first. Example: llm-pipeline index list"""
    from llm_pipeline.retrieval.generations import generations, released

    found = [asdict(generation) for generation in generations(_root(index, home), released(open_home(home)))]
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("generation", "built", "chunks", "embedder", "MB", "live", "released")
    for row in found:
        table.add_row(*(("yes" if value else "") if isinstance(value, bool) else str(value) for value in row.values()))
    Console().print(table)


@app.command()
def rollback(
    generation: Annotated[str | None, typer.Argument(help="The generation to make live; default: the one before the live one.")] = None,
    index: Index = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an older generation live again. Example: llm-pipeline index rollback"""
    from llm_pipeline.retrieval.generations import roll_back

    show({"live": roll_back(_root(index, home), generation).id}, as_json)


@app.command()
def gc(
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest stay.")] = 3,
    index: Index = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove generations, except the newest, the live one and those that releases name, and what killed builds left.

    Example: llm-pipeline index gc --keep 2"""
    from llm_pipeline.retrieval.generations import collect_garbage, generations, released
    from llm_pipeline.retrieval.index import KIND

    root, named = _root(index, home), released(open_home(home))
    unfinished = Artifacts(root).sweep(KIND)
    removed = collect_garbage(root, named, keep)
    freed = round(sum(generation.megabytes for generation in removed), 1)
    kept = len(generations(root, named))
    show({"removed": [g.id for g in removed], "unfinished": len(unfinished), "kept": kept, "freed_mb": freed}, as_json)


def _root(index: Path | None, home: Path | None) -> Path:
    return index.resolve() if index else open_home(home).indexes


def _artifact(root: Path, generation: str | None = None) -> Artifact:
    from llm_pipeline.retrieval.index import KIND

    artifacts = Artifacts(root)
    return artifacts.get(KIND, generation) if generation else artifacts.named(KIND, "live")


@contextmanager
def progress(verb: str, total: int) -> Iterator[tuple[Callable[[], None], Callable[[int], None]]]:
    """A bar on stderr: one function to go a step on, one to go to a number."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda: bar.advance(task), lambda done: bar.update(task, completed=done)


def register(command_line: typer.Typer) -> None:
    """Add `index` to the project's command line."""
    command_line.add_typer(app, name="index")
