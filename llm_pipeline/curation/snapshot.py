"""The corpus snapshot: a window of days without duplicates, superseded revisions and evaluation questions.

Nothing disappears: `clusters.parquet` has one row for every document of the window with the reason why it stayed or went.
"""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm_pipeline.curation import dedup
from llm_pipeline.curation.decontamination import RULE, Questions, Suites
from llm_pipeline.curation.dedup import THRESHOLD, WINDOW, Verdicts, decide, tables
from llm_pipeline.curation.dedup_shingles import Numbers
from llm_pipeline.curation.dedup_sketches import Sketches
from llm_pipeline.curation.suites import load_suite_rows
from llm_pipeline.errors import ContractError, InputError, MissingError
from llm_pipeline.store import Artifact, Home, Lake

VERSION = 2
WINDOW_DAYS = 7
_TEXTS = ("id", "day", "cluster_id", "reason", "kept_id", "matched")
_COLUMNS: dict[str, Any] = {name: pa.string() for name in _TEXTS} | {"keep": pa.bool_(), "jaccard": pa.float64()}
CLUSTERS: Any = pa.schema(_COLUMNS)
CONTAMINATED, SUPERSEDED = range(len(dedup.REASONS), len(dedup.REASONS) + 2)
REASONS = (*dedup.REASONS, "contaminated", "superseded")


@dataclass(frozen=True)
class Window:
    """The days that a snapshot is made of: those that the lake has in `window_days` up to `until`."""

    until: str
    days: tuple[str, ...]


def window(home: Home, until: str | None = None, window_days: int = WINDOW_DAYS) -> Window:
    """The days with scrubbed documents and signatures; `until` None means the latest of them."""
    if window_days < 1:
        raise InputError(f"window_days: received {window_days}, expected at least 1")
    have = sorted(set(home.lake.days("scrubbed_documents")) & set(home.lake.days("signatures")))
    if not have:
        raise MissingError("no day has both scrubbed_documents and signatures: materialise them first")
    last = until or have[-1]
    try:
        first = (date.fromisoformat(last) - timedelta(days=window_days - 1)).isoformat()
    except ValueError:
        raise InputError(f"until: received {until!r}, expected an ISO date such as {have[-1]}") from None
    days = tuple(day for day in have if first <= day <= last)
    if not days:
        raise MissingError(f"no documents from {first} to {last}; the lake has {', '.join(have)}")
    return Window(last, days)


def build_snapshot(home: Home, until: str | None = None, window_days: int = WINDOW_DAYS) -> Artifact:
    """The `corpus_snapshot` of a window, decontaminated against the latest evaluation suites (if there are any)."""
    chosen = window(home, until, window_days)
    suites = home.artifacts.named("evaluation_suites") if home.artifacts.has("evaluation_suites") else None
    inputs = {
        "version": VERSION,
        "documents": {day: home.lake.version("scrubbed_documents", day) for day in chosen.days},
        "signatures": {day: home.lake.version("signatures", day) for day in chosen.days},
        "suites": suites.id if suites else None,
        "dedup": [WINDOW, THRESHOLD],
        "decontamination": RULE,
    }

    def make(folder: Path) -> Mapping[str, Any]:
        verdicts = select(Days(home.lake, chosen.days), load_suite_rows(suites) if suites else {}, folder)
        return {"until": chosen.until, "days": list(chosen.days), "suites": suites.id if suites else None, **summary(verdicts)}

    return home.artifacts.build("corpus_snapshot", inputs, make)


@dataclass(frozen=True)
class Days:
    """The documents of a window, one day at a time in the order of ids."""

    lake: Lake
    days: Sequence[str]

    def __call__(self) -> Iterator[pa.Table]:
        """With the columns that `signatures.sign` made of them."""
        for day, documents in zip(self.days, self.documents(), strict=True):
            signed = self.lake.read("signatures", [day])
            at: Any = pc.index_in(documents["id"], value_set=signed["id"].combine_chunks())
            if at.null_count:
                first = documents["id"].filter(pc.is_null(at))[0]
                raise ContractError(
                    f"{day}: {at.null_count} documents have no signature (first: {first}): materialise `signatures` of the same days again"
                )
            for name in ("text_hash", "signature"):
                documents = documents.append_column(name, signed[name].take(at))
            yield documents

    def documents(self) -> Iterator[pa.Table]:
        for day in self.days:
            yield self.lake.read("scrubbed_documents", [day]).sort_by("id")


def select(days: Days, suites: Suites, folder: Path) -> Verdicts:
    """Write `documents.parquet` (kept, with cluster_id) and `clusters.parquet` (the verdict on every document), by day and id.

    Leaks go first, then older revisions of articles, then duplicates among what is left.
    """
    questions, leaks, articles, done = Questions(suites), dict[int, str](), Articles(), 0
    with tempfile.TemporaryDirectory(dir=folder) as scratch, Sketches(Path(scratch), THRESHOLD) as sketches:
        for table in days():
            sketches.add(table)
            leaks.update((done + match.document, match.question_id) for match in questions.find(table["text"]))
            articles.add(table, done, leaks)
            done += table.num_rows
        leaked, (old, new) = np.array(list(leaks), dtype=np.int64), articles.superseded()
        verdicts = decide(sketches, np.concatenate([leaked, old]))
        verdicts.reason[leaked], verdicts.reason[old] = CONTAMINATED, SUPERSEDED
        verdicts.kept[old] = verdicts.kept[new]
        _write(days, tables(sketches, verdicts, REASONS), leaks, folder)
    return verdicts


def _write(days: Days, verdicts: Iterator[pa.Table], leaks: Mapping[int, str], folder: Path) -> None:
    done = 0
    with ExitStack() as stack:
        clusters = stack.enter_context(pq.ParquetWriter(folder / "clusters.parquet", CLUSTERS))
        documents: pq.ParquetWriter | None = None
        for table, found in zip(days.documents(), verdicts, strict=True):
            matched = pa.array([leaks.get(row) for row in range(done, done + table.num_rows)], pa.string())
            clusters.write_table(found.append_column("day", table["day"]).append_column("matched", matched).select(CLUSTERS.names))
            kept = table.append_column("cluster_id", found["cluster_id"]).filter(found["keep"])
            documents = documents or stack.enter_context(pq.ParquetWriter(folder / "documents.parquet", kept.schema))
            documents.write_table(kept)
            done += table.num_rows


class Articles:
    """The revisions of articles that did not leak, by uri; of each the newest counts. Days come in their order."""

    def __init__(self) -> None:
        self._revisions: dict[str, list[tuple[int, int]]] = {}

    def add(self, table: pa.Table, first: int, leaks: Container[int]) -> None:
        """`first` is the number of the table's first row."""
        columns = (table[name].to_pylist() for name in ("kind", "uri", "text_hash"))
        for row, (kind, uri, text) in enumerate(zip(*columns, strict=True), first):
            if kind == "article" and row not in leaks:
                self._revisions.setdefault(str(uri), []).append((row, int(str(text))))

    def superseded(self) -> tuple[Numbers, Numbers]:
        """Rows whose article has another text in its newest revision, and the rows of those."""
        pairs = [(row, found[-1][0]) for found in self._revisions.values() for row, text in found if text != found[-1][1]]
        old, new = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return old, new


def summary(verdicts: Verdicts) -> dict[str, Any]:
    """Counts by reason, and how many clusters there are of each size above one."""
    reasons, documents = np.unique(verdicts.reason, return_counts=True)
    sizes, clusters = np.unique(np.unique(verdicts.cluster, return_counts=True)[1], return_counts=True)
    return {
        "documents": len(verdicts.reason),
        "reasons": dict(sorted((REASONS[reason], n) for reason, n in zip(reasons, documents.tolist(), strict=True))),
        "cluster_sizes": {str(size): n for size, n in zip(sizes.tolist(), clusters.tolist(), strict=True) if size > 1},
    }


def problems(clusters: pa.Table) -> list[str]:
    """What is wrong with a snapshot's clusters: every removed duplicate must name a kept document of the window."""
    kept = clusters["id"].filter(clusters["keep"]).combine_chunks()
    found = [] if len(kept) else ["no document was kept"]
    twins = clusters.filter(pc.ends_with(clusters["reason"], "duplicate"))
    orphans = twins.filter(pc.invert(pc.is_in(twins["kept_id"], kept)))["id"]
    if len(orphans):
        found.append(f"{len(orphans)} removed duplicates name no kept twin (first: {orphans[0]})")
    unlike: Any = pc.less(twins["jaccard"], pa.scalar(THRESHOLD))
    weak = twins.filter(pc.fill_null(unlike, True))["id"]
    if len(weak):
        found.append(f"{len(weak)} removed duplicates are less similar than {THRESHOLD} to their twin (first: {weak[0]})")
    leaks = clusters.filter(pc.equal(clusters["reason"], pa.scalar(REASONS[CONTAMINATED])))
    named = leaks.filter(pc.not_equal(leaks["matched"], pa.scalar("")))
    unnamed = leaks.num_rows - named.num_rows
    return found + ([f"{unnamed} contaminated documents name no question"] if unnamed else [])
