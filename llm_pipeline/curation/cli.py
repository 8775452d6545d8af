"""Curation on plain files, without Dagster: `llm-pipeline scrub|dedup|filter|decontaminate|curate|data`."""

from __future__ import annotations

import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from llm_pipeline.curation.carry import with_carried
from llm_pipeline.curation.files import Corpus, ParquetOut, scratch_beside, suite_rows, with_ids_as
from llm_pipeline.paths import DATA
from llm_pipeline.shell import HomeOption, JsonOption, lean, open_home, show

Input = Annotated[
    Path, typer.Argument(exists=True, help="Parquet, JSONL (also .gz, .zst), CSV or a folder, with columns id and text.", metavar="IN")
]
Kind = Literal["article", "conversation", "web", "note", "doc"]
Output = Annotated[Path, typer.Argument(dir_okay=False, help="Parquet file to write.", metavar="OUT.parquet")]


class Session:
    """One verb at work: progress on stderr while its tables pass, a summary on stdout when it ends."""

    def __init__(self, verb: str, corpus: Corpus, as_json: bool) -> None:
        self.verb, self.corpus, self.as_json = verb, corpus, as_json
        self.rows, self.characters = 0, 0
        lean()
        self._started, self._cpu = time.monotonic(), time.process_time()
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)

    def __enter__(self) -> Session:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def follow(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Pass `tables` on, counting their rows."""
        task = self._bar.add_task(self.verb, total=self.corpus.rows)
        for table in tables:
            yield table
            self.rows += table.num_rows
            self._bar.update(task, advance=table.num_rows)

    def end(self, out: Path, **facts: Any) -> None:
        """Write what could not be read beside `out`, and say what was done."""
        if self.corpus.damaged:
            quarantine = out.with_suffix(".quarantine.parquet")
            pq.write_table(pa.Table.from_pylist([asdict(damage) for damage in self.corpus.damaged]), quarantine)
            facts |= {"damaged": len(self.corpus.damaged), "quarantine": str(quarantine)}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        spent = {"seconds": round(time.monotonic() - self._started, 2), "cpu_seconds": round(time.process_time() - self._cpu, 2)}
        show({"verb": self.verb, "rows": self.rows, **facts, "out": str(out), **spent, "peak_memory_mb": memory}, self.as_json)


def scrub(
    source: Input,
    out: Output,
    spans: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Parquet file for what was found: id, start, end, entity, score, recogniser.")
    ] = None,
    policy: Annotated[Path, typer.Option(exists=True, help="What happens to which type.")] = DATA / "policies" / "pii.yaml",
    as_json: JsonOption = False,
) -> None:
    """Replace personal data and secrets in the column text; spans are character offsets into the input, never values.

    The other columns come behind id and text and are scrubbed as well, each value read under its column's name (also in lists, structs,
    maps and JSON): strings as the policy says, numbers and dates become null. Ids, truth values and binary data stay as they are.

    Example: llm-pipeline scrub mails.jsonl.gz clean.parquet --spans spans.parquet
    """
    from llm_pipeline.curation.pii import load_policy
    from llm_pipeline.curation.scrubbing import scrub_table
    from llm_pipeline.curation.scrubbing_columns import scrub_columns

    if spans and spans.absolute() == out.absolute():
        raise typer.BadParameter(f"--spans and OUT.parquet are the same file, {out}")
    corpus, rules, entities, beside = Corpus(source), load_policy(policy), Counter[str](), Counter[str]()
    with (
        TemporaryDirectory() as scratch,
        ParquetOut(out) as texts,
        ParquetOut(spans or Path(scratch) / "spans.parquet") as places,
        Session("scrub", corpus, as_json) as session,
    ):
        for table in session.follow(corpus()):
            scrubbed, found = scrub_table(table, rules)
            carried = [name for name in table.column_names if name not in ("id", "text")]
            scrubbed, changed = scrub_columns(scrubbed.select(["id", "text", *carried]), carried, rules)
            entities.update(map(str, found["entity"].to_pylist()))
            beside.update(sum(changed, Counter()))
            texts.write(with_ids_as(scrubbed, corpus.id_type))
            places.write(with_ids_as(found, corpus.id_type))
    columns = {"columns": dict(beside.most_common())} if beside else {}
    session.end(out, spans=sum(entities.values()), entities=dict(entities.most_common()), **columns)


def dedup(
    source: Input,
    out: Output,
    threshold: Annotated[
        float, typer.Option(min=0.5, max=1, help="Jaccard similarity of word 5-shingles from which two texts are duplicates.")
    ] = 0.7,
    semantic: Annotated[float | None, typer.Option(min=0, max=1, help="Also cosine similarity of embeddings from which they are.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find exact and near duplicates: id, cluster_id, keep, reason, kept_id, jaccard; every removed row has a kept twin.

    The input's other columns but the text follow, as they are; one that is called like one of ours becomes input_NAME.

    Example: llm-pipeline dedup corpus.parquet verdicts.parquet --threshold 0.8
    """
    from llm_pipeline.curation.dedup import dedup_batches

    corpus = Corpus(source)
    with scratch_beside(out) as scratch:
        verdicts = dedup_batches(corpus, threshold=threshold, scratch=scratch, semantic=semantic)
        _write_verdicts("dedup", corpus, out, as_json, verdicts, ("id", "cluster_id", "kept_id"))


def filter_(
    source: Input,
    out: Output,
    policy: Annotated[Path, typer.Option(exists=True, help="Rules and thresholds.")] = DATA / "policies" / "quality.yaml",
    kind: Annotated[
        Kind | None, typer.Option(help="Judge rows without a column kind as this kind; without it by the published limits for web text.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Judge quality, language, toxicity and poison: id, keep, reason, and every score.

    The input's other columns but the text follow, as they are; one that is called like one of ours becomes input_NAME.

    Example: llm-pipeline filter crawl.parquet verdicts.parquet --json / llm-pipeline filter chats.jsonl verdicts.parquet --kind note
    """
    from llm_pipeline.curation.quality import filter_batches, load_policy

    corpus = Corpus(source)

    def rows() -> Iterator[pa.Table]:
        for table in corpus():
            declared = kind is None or "kind" in table.column_names
            yield table if declared else table.append_column("kind", pa.array([kind] * table.num_rows, pa.string()))

    _write_verdicts("filter", corpus, out, as_json, filter_batches(rows, load_policy(policy)))


def decontaminate(
    source: Input,
    out: Output,
    against: Annotated[
        Path, typer.Option(exists=True, help="Suite that must not leak: rows of question (or text) and answer; a file or a folder of them.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Find documents that hold an evaluation question: id, keep, matched_id, overlap.

    The input's other columns but the text follow, as they are; one that is called like one of ours becomes input_NAME.

    Example: llm-pipeline decontaminate corpus.parquet --against suite.jsonl verdicts.parquet
    """
    from llm_pipeline.curation.decontamination import decontaminate_batches

    corpus = Corpus(source)
    _write_verdicts("decontaminate", corpus, out, as_json, decontaminate_batches(corpus, suite_rows(against)))


def _write_verdicts(
    verb: str, corpus: Corpus, out: Path, as_json: bool, verdicts: Iterator[pa.Table], ids: tuple[str, ...] = ("id",)
) -> None:
    kept, reasons = 0, Counter[str]()
    with ParquetOut(out) as file, Session(verb, corpus, as_json) as session:
        for table in session.follow(with_carried(verdicts, corpus)):
            keep = table["keep"].to_pylist()
            kept += sum(map(bool, keep))
            if "reason" in table.column_names:
                reasons.update(str(reason) for reason, stays in zip(table["reason"].to_pylist(), keep, strict=True) if not stays)
            file.write(with_ids_as(table, corpus.id_type, ids))
    session.end(out, kept=kept, removed=session.rows - kept, **({"reasons": dict(reasons.most_common())} if reasons else {}))


def curate(
    source: Input,
    out: Annotated[Path, typer.Argument(file_okay=False, help="Folder to write.", metavar="OUT_DIR")],
    against: Annotated[Path | None, typer.Option(exists=True, help="Suites that must not leak into the corpus.")] = None,
    threshold: Annotated[float, typer.Option(min=0.5, max=1, help="Jaccard similarity from which two texts are duplicates.")] = 0.7,
    licence: Annotated[str, typer.Option(help="By what licence the text is used; recorded with every document.")] = "unspecified",
    as_json: JsonOption = False,
) -> None:
    """Normalise, filter, scrub, deduplicate and decontaminate a corpus, with a ledger of every removal and change and a data card.

    OUT_DIR gets documents.parquet, ledger.parquet, spans.parquet, clusters.parquet, summary.json and data_card.md/.html.
    The input's other columns follow in documents.parquet, scrubbed like the text (strings by the policy, numbers and dates to null; truth
    values and binary data as they are); one that is called like one of ours becomes input_NAME. The input's id is external_id.
    Example: llm-pipeline curate raw/ curated/ --against suites/
    """
    from llm_pipeline.curation.curate import curate as run

    lean()
    console = Console(stderr=True)
    show(run(source, out, against=against, threshold=threshold, licence=licence, say=console.print), as_json)


data = typer.Typer(no_args_is_help=True, help="Versions of tables and artefacts: what there was, what changed, and back.")
Name = Annotated[str, typer.Argument(help="A table of the lake or a kind of artefact, such as documents or corpus_snapshot.")]
Day = Annotated[str | None, typer.Option(help="Day of a daily table, as 2026-01-31.")]


@data.command("log")
def data_log(name: Name, day: Day = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All versions, oldest first. Example: llm-pipeline data log documents --day 2026-01-03"""
    from llm_pipeline.curation.versions import log

    versions = [asdict(version) for version in log(open_home(home), name, day)]
    if as_json:
        typer.echo(json.dumps(versions))
        return
    table = Table(*("name", "day", "version", "written", "rows", "content", "current", "tags"))
    for version in versions:
        table.add_row(*(", ".join(value) if isinstance(value, tuple) else str(value or "") for value in version.values()))
    Console().print(table)


@data.command("diff")
def data_diff(name: Name, old: str, new: str, day: Day = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Rows added, removed and changed from one version to another. Example: llm-pipeline data diff documents 1 2 --day 2026-01-03"""
    from llm_pipeline.curation.versions import diff

    found = asdict(diff(open_home(home), name, old, new, day))
    show(found if as_json else {key: value for key, value in found.items() if key != "examples"}, as_json)


@data.command("rollback")
def data_rollback(name: Name, version: str, day: Day = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make an earlier version the current one again. Example: llm-pipeline data rollback documents 1 --day 2026-01-03"""
    from llm_pipeline.curation.versions import rollback

    show(asdict(rollback(open_home(home), name, version, day)), as_json)


@data.command("ledger")
def data_ledger(
    day: Day = None,
    rule: Annotated[str | None, typer.Option(help="Only what this rule did.")] = None,
    document: Annotated[str | None, typer.Option("--id", help="Only what became of this document.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows to this Parquet file instead of counting them.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which rule removed, quarantined or changed what. Example: llm-pipeline data ledger --id 0123456789abcdef"""
    from llm_pipeline.curation.ledger import counts_by_rule, whole_ledger

    rows = whole_ledger(open_home(home), [day] if day else None)
    for column, wanted in (("rule", rule), ("id", document)):
        if wanted is not None:
            rows = rows.filter(pc.equal(rows[column], pa.scalar(wanted)))
    if out:
        with ParquetOut(out) as file:
            file.write(rows)
    if document:
        for row in rows.to_pylist():
            show(row, as_json)
    else:
        counts = {f"{row['rule']} ({row['action']})": row["count"] for row in counts_by_rule(rows)}
        show({"records": rows.num_rows, **counts}, as_json)


def register(app: typer.Typer) -> None:
    """Add these verbs to the project's command line."""
    app.command()(scrub)
    app.command()(dedup)
    app.command("filter")(filter_)
    app.command()(decontaminate)
    app.command()(curate)
    app.add_typer(data, name="data")
