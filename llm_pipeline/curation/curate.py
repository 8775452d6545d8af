"""The whole of curation on plain files: what the assets do day by day, as one pass over a corpus that need not fit in memory.

files -> normalise -> filter -> scrub -> duplicates -> leaks -> documents.parquet, and a ledger line for all that is not in it
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.files import Corpus, ParquetOut, files_of, scratch_beside, suite_rows
from llm_pipeline.curation.ledger import LEDGER_SCHEMA, Action, Entry, ledger_table
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import ContractError
from llm_pipeline.store import write_atomically

if TYPE_CHECKING:
    from llm_pipeline.curation.quality_policy import QualityPolicy

Say = Callable[[str], None]
Row = dict[str, Any]


@dataclass
class Balance:
    """What went in and what became of it; `stages` has the rows after each stage and its CPU seconds."""

    received: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    actions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Records by (stage, rule, action)."""

    def note(self, ledger: pa.Table) -> None:
        self.actions.update(zip(*(map(str, ledger[name].to_pylist()) for name in ("stage", "rule", "action")), strict=True))

    def total(self, action: str) -> int:
        return sum(n for (_, _, found), n in self.actions.items() if found == action)


class Run:
    """One corpus on its way through the stages; each reads the file that the last one wrote."""

    def __init__(self, out: Path, work: Path, say: Say, last: str) -> None:
        self.out, self.work, self.say, self.last, self.balance = out, work, say, last, Balance()

    @cached_property
    def quality(self) -> QualityPolicy:
        from llm_pipeline.curation.quality import load_policy

        return load_policy()

    def stage(self, name: str, tables: Iterator[tuple[pa.Table, pa.Table]], ledger: ParquetOut) -> Path:
        """Write the rows that stay and the ledger of those that don't."""
        begun, path = time.process_time(), self.work / f"{name}.parquet"
        with ParquetOut(path, "none" if name != self.last else "zstd") as file:
            for rows, entries in tables:
                file.write(rows)
                ledger.write(entries)
                self.balance.note(entries)
        seconds = round(time.process_time() - begun, 2)
        self.balance.stages[name] = {"documents": file.rows, "cpu_seconds": seconds}
        self.say(f"{name}: {file.rows:,} documents, {seconds:.1f} CPU s")
        return path

    def normalised(self, source: Path, licence: str) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.normalise import normalise_rows
        from llm_pipeline.curation.readers import raw_rows, read_file

        declared = Source("corpus", "files", licence, "user", "provided by the user", uri=str(source))
        root = source if source.is_dir() else source.parent
        records = (record for file in files_of(source) for record in read_file(file, root))
        for rows in chain([[]], raw_rows(declared, records)):
            self.balance.received += len(rows)
            yield normalise_rows(rows, "", (), self.quality.poison)

    def filtered(self, path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.quality import filter_batches

        return _judged(Corpus(path), filter_batches(Corpus(path), self.quality), "filtered_documents")

    def scrubbed(self, path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.pii import load_policy
        from llm_pipeline.curation.scrubbing import scrub_day

        policy = load_policy()
        with ParquetOut(self.out / "spans.parquet") as places:
            for table in Corpus(path)():
                rows, spans, ledger = scrub_day(table, "", policy)
                places.write(spans)
                yield rows, ledger

    def unique(self, path: Path, threshold: float) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.dedup import dedup_batches

        with ParquetOut(self.out / "clusters.parquet") as clusters:
            verdicts = dedup_batches(Corpus(path), threshold=threshold, scratch=self.work)
            yield from _judged(Corpus(path), _copied(verdicts, clusters), "corpus_snapshot")

    def clean(self, path: Path, suites: Mapping[str, list[Row]]) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.decontamination import decontaminate_batches

        return _judged(Corpus(path), decontaminate_batches(Corpus(path), suites), "corpus_snapshot", "contaminated")


def curate(
    source: Path, out: Path, *, against: Path | None = None, threshold: float = 0.7, licence: str = "unspecified", say: Say = lambda _: None
) -> dict[str, Any]:
    """Curate a file or folder into `out` and return the summary; raises ContractError when the books don't balance."""
    suites = suite_rows(against) if against else {}
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with scratch_beside(out / "documents.parquet") as work, ParquetOut(out / "ledger.parquet") as ledger:
        run = Run(out, work, say, "decontaminated" if suites else "unique")
        path = run.stage("normalised", run.normalised(source, licence), ledger)
        path = run.stage("filtered", run.filtered(path), ledger)
        path = run.stage("scrubbed", run.scrubbed(path), ledger)
        path = run.stage("unique", run.unique(path, threshold), ledger)
        if suites:
            path = run.stage("decontaminated", run.clean(path, suites), ledger)
        path.replace(out / "documents.parquet")
    kept = pq.read_metadata(out / "documents.parquet").num_rows
    removed, quarantined = run.balance.total("removed"), run.balance.total("quarantined")
    if run.balance.received != kept + removed + quarantined:
        raise ContractError(f"{run.balance.received} received, but {kept} kept + {removed} removed + {quarantined} quarantined")
    summary = {
        "received": run.balance.received,
        "kept": kept,
        "removed": removed,
        "quarantined": quarantined,
        "changed": run.balance.total("changed"),
        "rules": {f"{stage}/{rule}": n for (stage, rule, action), n in run.balance.actions.most_common() if action != "changed"},
        "stages": run.balance.stages,
        "seconds": round(time.monotonic() - begun, 1),
        "out": str(out),
    }
    write_atomically(out / "summary.json", json.dumps(summary, indent=1))
    from llm_pipeline.governance.data_card import corpus_card

    corpus_card(out / "documents.parquet", run.balance.actions).write(out, "data_card")
    return summary


def _judged(
    tables: Callable[[], Iterator[pa.Table]], verdicts: Iterator[pa.Table], stage: str, rule: str = ""
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """(rows that stay, ledger) out of rows and verdicts {id, keep, reason, ...} in the same order, however either is cut into tables."""
    waiting, named = pa.table({}), ["id", "uri", "row"]
    for table in tables():
        if not table.num_rows:
            yield table, LEDGER_SCHEMA.empty_table()
            continue
        while waiting.num_rows < table.num_rows:
            waiting = pa.concat_tables([waiting, next(verdicts)], promote_options="permissive")
        mine, waiting = waiting.slice(0, table.num_rows), waiting.slice(table.num_rows)
        keep = mine["keep"].combine_chunks()
        yield (
            _kept(table, mine),
            ledger_table("", map(_entry(stage, rule), _gone(table.select(named), keep), _gone(mine, keep))),
        )


def _kept(rows: pa.Table, verdicts: pa.Table) -> pa.Table:
    if "cluster_id" in verdicts.column_names:
        rows = rows.append_column("cluster_id", verdicts["cluster_id"])
    return rows.filter(verdicts["keep"])


def _gone(rows: pa.Table, keep: Any) -> list[Row]:
    import pyarrow.compute as pc

    return rows.filter(pc.invert(keep)).to_pylist()


def _entry(stage: str, rule: str) -> Callable[[Row, Row], Entry]:
    from llm_pipeline.curation.poison import QUARANTINED

    def entry(row: Row, verdict: Row) -> Entry:
        reason = rule or verdict["reason"]
        action: Action = "quarantined" if reason in QUARANTINED else "removed"
        score = verdict.get("jaccard", verdict.get("overlap", verdict.get("toxicity" if reason == "toxic" else reason)))
        detail = verdict.get("kept_id") or verdict.get("matched_id") or ""
        return Entry(row["id"], row["uri"], row["row"], stage, reason, action, score, detail)

    return entry


def _copied(tables: Iterator[pa.Table], out: ParquetOut) -> Iterator[pa.Table]:
    for table in tables:
        out.write(table)
        yield table
