"""The corpus snapshot: a window of days without duplicates, superseded revisions and evaluation questions.

Nothing disappears: `clusters.parquet` has one row for every document of the window with the reason why it stayed or went.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm_pipeline.curation.decontamination import RULE, Questions, decontaminate_table
from llm_pipeline.curation.dedup import THRESHOLD, WINDOW, dedup_batches
from llm_pipeline.curation.suites import load_suite_rows
from llm_pipeline.errors import ContractError, InputError, MissingError
from llm_pipeline.store import Artifact, Home, Lake

VERSION = 2
WINDOW_DAYS = 7
_TEXTS = ("id", "day", "cluster_id", "reason", "kept_id", "matched")
_COLUMNS: dict[str, Any] = {name: pa.string() for name in _TEXTS} | {"keep": pa.bool_(), "jaccard": pa.float64()}
CLUSTERS: Any = pa.schema(_COLUMNS)
Suites = Mapping[str, Sequence[Mapping[str, Any]]]


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
        select(Days(home.lake, chosen.days), load_suite_rows(suites) if suites else {}, folder)
        clusters = pq.read_table(folder / "clusters.parquet", columns=["cluster_id", "reason"])
        return {"until": chosen.until, "days": list(chosen.days), "suites": suites.id if suites else None, **summary(clusters)}

    return home.artifacts.build("corpus_snapshot", inputs, make)


@dataclass(frozen=True)
class Days:
    """The documents of a window with what `signatures.sign` made of them, one day at a time in the order of ids."""

    lake: Lake
    days: Sequence[str]

    def __call__(self) -> Iterator[pa.Table]:
        for day in self.days:
            documents = self.lake.read("scrubbed_documents", [day]).sort_by("id")
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


def select(days: Days, suites: Suites, folder: Path) -> None:
    """Write `documents.parquet` (kept, with cluster_id) and `clusters.parquet` (a verdict on every document), by day and id.

    Leaks go first, then older revisions of articles, then duplicates among what is left.
    """
    questions, revisions = Questions({"": [], **suites}), Revisions()
    leaks = []
    for table in days():
        leaks.append(decontaminate_table(table, questions, questions.names))
        revisions.add(table, leaks[-1]["keep"])

    def clean() -> Iterator[pa.Table]:
        for table, leaked in zip(days(), leaks, strict=True):
            yield table.filter(pc.and_(leaked["keep"], pc.is_null(revisions.newer(table, leaked["keep"]))))

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        verdicts = list(dedup_batches(clean, scratch=Path(scratch)))
    revisions.follow(verdicts)
    clusters = pq.ParquetWriter(folder / "clusters.parquet", CLUSTERS)
    kept: pq.ParquetWriter | None = None
    with clusters:
        for table, leaked, found in zip(days(), leaks, verdicts, strict=True):
            judged = _judged(table, leaked, revisions, found)
            clusters.write_table(judged)
            stays = table.drop_columns(["text_hash", "signature"]).append_column("cluster_id", judged["cluster_id"]).filter(judged["keep"])
            kept = kept or pq.ParquetWriter(folder / "documents.parquet", stays.schema)
            kept.write_table(stays)
    if kept:
        kept.close()


def _judged(table: pa.Table, leaked: pa.Table, revisions: Revisions, found: pa.Table) -> pa.Table:
    """The verdicts of one day; `found` are those of deduplication, on the rows that neither leaked nor are superseded."""
    newer = revisions.newer(table, leaked["keep"])
    old, clean = pc.is_valid(newer), pc.and_(leaked["keep"], pc.is_null(newer))
    ids, nothing = table["id"].combine_chunks(), pa.nulls(table.num_rows, pa.string())
    reason = pc.if_else(old, "superseded", "contaminated")
    columns = {
        "id": ids,
        "day": table["day"],
        "cluster_id": _filled(ids, clean, found["cluster_id"]),
        "reason": _filled(reason, clean, found["reason"]),
        "kept_id": _filled(pc.coalesce(revisions.kept(newer), nothing), clean, found["kept_id"]),
        "matched": pc.if_else(leaked["keep"], nothing, leaked["matched_id"]),
        "keep": _filled(pa.array([False] * table.num_rows, pa.bool_()), clean, found["keep"]),
        "jaccard": _filled(pa.nulls(table.num_rows, pa.float64()), clean, found["jaccard"]),
    }
    return pa.table(columns).cast(CLUSTERS)


def _filled(column: Any, mask: Any, values: Any) -> Any:
    """The column with `values` in the places of the mask."""
    single: list[Any] = [part.combine_chunks() if isinstance(part, pa.ChunkedArray) else part for part in (column, mask)]
    return pc.replace_with_mask(single[0], single[1], values.combine_chunks())


@dataclass
class Revisions:
    """The newest revision of every article that did not leak (by uri), and where it went."""

    _newest: dict[str, tuple[int, str]] = field(default_factory=dict)
    _moved: dict[str, str] = field(default_factory=dict)

    def add(self, table: pa.Table, usable: Any) -> None:
        """Days come in their order."""
        for row in self._articles(table, usable).to_pylist():
            self._newest[row["uri"]] = (row["text_hash"], row["id"])

    def newer(self, table: pa.Table, usable: Any) -> Any:
        """For each row the id of the newest revision of its article when that has another text, else null."""
        articles = self._articles(table, usable)
        newest = [self._newest[row["uri"]] for row in articles.to_pylist()]
        pairs = zip(newest, articles["text_hash"].to_pylist(), strict=True)
        found = pa.chunked_array([pa.array([identity if hash_ != own else None for (hash_, identity), own in pairs], pa.string())])
        return _filled(pa.nulls(table.num_rows, pa.string()), self._mask(table, usable), found)

    def follow(self, verdicts: Sequence[pa.Table]) -> None:
        """A newest revision that was itself a duplicate gives way to its kept twin."""
        names = pa.array([identity for _, identity in self._newest.values()], pa.string())
        for table in verdicts:
            removed = table.filter(pc.and_(pc.invert(table["keep"]), pc.is_in(table["id"], value_set=names)))
            self._moved.update({row["id"]: row["kept_id"] for row in removed.to_pylist()})

    def kept(self, newer: Any) -> Any:
        return pa.array([self._moved.get(name, name) for name in newer.to_pylist()], pa.string())

    def _mask(self, table: pa.Table, usable: Any) -> Any:
        kinds: Any = table["kind"]
        return pc.and_(pc.equal(kinds, pa.scalar("article")), usable)

    def _articles(self, table: pa.Table, usable: Any) -> pa.Table:
        return table.select(["id", "uri", "text_hash"]).filter(self._mask(table, usable))


def summary(clusters: pa.Table) -> dict[str, Any]:
    """Counts by reason, and how many clusters there are of each size above one."""
    reasons = Counter(map(str, clusters["reason"].to_pylist()))
    sizes = Counter(Counter(clusters["cluster_id"].to_pylist()).values())
    return {
        "documents": clusters.num_rows,
        "reasons": dict(sorted(reasons.items())),
        "cluster_sizes": {str(size): number for size, number in sorted(sizes.items()) if size > 1},
    }


def problems(clusters: pa.Table) -> list[str]:
    """What is wrong with a snapshot's clusters: every removed duplicate must name a kept document of the window."""
    rows = clusters.to_pylist()
    kept = {row["id"] for row in rows if row["keep"]}
    found = [] if kept else ["no document was kept"]
    orphans = [row["id"] for row in rows if row["reason"].endswith("duplicate") and row["kept_id"] not in kept]
    if orphans:
        found.append(f"{len(orphans)} removed duplicates name no kept twin (first: {orphans[0]})")
    weak = [row["id"] for row in rows if row["reason"].endswith("duplicate") and (row["jaccard"] or 0) < THRESHOLD]
    if weak:
        found.append(f"{len(weak)} removed duplicates are less similar than {THRESHOLD} to their twin (first: {weak[0]})")
    unnamed = [row["id"] for row in rows if row["reason"] == "contaminated" and not row["matched"]]
    return found + ([f"{len(unnamed)} contaminated documents name no question"] if unnamed else [])
