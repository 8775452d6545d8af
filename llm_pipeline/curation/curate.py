"""The whole of curation on plain files: what the assets do day by day, as one pass over a corpus that need not fit in memory.

files -> normalise -> filter -> scrub -> duplicates -> leaks -> documents.parquet, and a ledger line for all that is not in it
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.carry import Carried, columns_of, side_by_side
from llm_pipeline.curation.files import Corpus, ParquetOut, scratch_beside, suite_rows
from llm_pipeline.curation.ledger import Action, Entry, ledger_table
from llm_pipeline.curation.normalise import DOCUMENT_SCHEMA
from llm_pipeline.curation.normalise_rows import read_from
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

    def __init__(self, out: Path, work: Path, say: Say, last: str, carried: Carried) -> None:
        self.out, self.work, self.say, self.last, self.carried = out, work, say, last, carried
        self.balance = Balance()

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
        from llm_pipeline.curation.readers import files_of, raw_rows, read_file

        declared = Source("corpus", "files", licence, "user", "provided by the user", uri=str(source))
        root = source if source.is_dir() else source.parent
        records = (record for file in files_of(source) for record in read_file(file, root))
        for rows in chain([[]], raw_rows(declared, records)):
            self.balance.received += len(rows)
            yield normalise_rows(rows, "", (), self.quality.poison, self.carried)

    def filtered(self, path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.quality import filter_batches

        return _judged(Corpus(path), filter_batches(Corpus(path), self.quality), "filtered_documents")

    def scrubbed(self, path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
        from llm_pipeline.curation.pii import load_policy
        from llm_pipeline.curation.scrubbing import scrub_day
        from llm_pipeline.curation.scrubbing_columns import scrub_columns

        policy, names = load_policy(), self.carried.called
        with ParquetOut(self.out / "spans.parquet") as places:
            for table in Corpus(path)():
                rows, spans, ledger = scrub_day(table, "", policy)
                places.write(spans)
                beside, changed = scrub_columns(table.select(["id", "uri", "row", *names]), names, policy)
                yield self.carried.onto(rows, [beside[name] for name in names]), pa.concat_tables([ledger, _of_columns(beside, changed)])

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
        columns = columns_of(source)
        carried = Carried.of(columns, ours=(*DOCUMENT_SCHEMA.names, "cluster_id"), used=read_from(columns.names))
        run = Run(out, work, say, "decontaminated" if suites else "unique", carried)
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
    for table, mine in side_by_side(tables(), verdicts):
        gone = map(_entry(stage, rule), _gone(table.select(["id", "uri", "row"]), mine["keep"]), _gone(mine, mine["keep"]))
        yield _kept(table, mine), ledger_table("", gone)


def _kept(rows: pa.Table, verdicts: pa.Table) -> pa.Table:
    if "cluster_id" in verdicts.column_names:
        rows = rows.add_column(len(DOCUMENT_SCHEMA), "cluster_id", verdicts["cluster_id"])
    return rows.filter(verdicts["keep"])


def _gone(rows: pa.Table, keep: Any) -> list[Row]:
    import pyarrow.compute as pc

    return rows.filter(pc.invert(keep)).to_pylist()


def _of_columns(rows: pa.Table, changed: Sequence[Counter[str]]) -> pa.Table:
    """The ledger of personal data in carried columns."""
    touched = [row for row, found in enumerate(changed) if found]
    return ledger_table(
        "",
        [
            Entry(at["id"], at["uri"], at["row"], "scrubbed_documents", "pii_column", "changed", float(n), f"{n} x in {column}")
            for row, at in zip(touched, rows.select(["id", "uri", "row"]).take(touched).to_pylist() if touched else [], strict=True)
            for column, n in changed[row].items()
        ],
    )


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
