"""The corpus snapshot: a window of days without duplicates, superseded revisions and evaluation questions.

Nothing disappears: `clusters.parquet` has one row for every document of the window with the reason why it stayed or went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.curation.decontamination import NGRAM, SHORTEST, find_contaminated
from llm_pipeline.curation.dedup import BANDS, ROWS, THRESHOLD, WINDOW, Item, deduplicate
from llm_pipeline.curation.signatures import signature_matrix
from llm_pipeline.curation.suites import load_suite_rows
from llm_pipeline.errors import ContractError, InputError, MissingError
from llm_pipeline.store import Artifact, Home

VERSION = 1
WINDOW_DAYS = 7
_TEXTS = ("id", "day", "cluster_id", "reason", "kept_id", "matched")
_COLUMNS: dict[str, Any] = {name: pa.string() for name in _TEXTS} | {"keep": pa.bool_(), "jaccard": pa.float64()}
CLUSTERS: Any = pa.schema(_COLUMNS)
Row = dict[str, Any]


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
        "dedup": [BANDS, ROWS, WINDOW, THRESHOLD],
        "decontamination": [NGRAM, SHORTEST],
    }

    def make(folder: Path) -> Mapping[str, Any]:
        documents = home.lake.read("scrubbed_documents", chosen.days)
        signatures = home.lake.read("signatures", chosen.days)
        kept, clusters = select(documents, signatures, load_suite_rows(suites) if suites else {})
        pq.write_table(kept, folder / "documents.parquet")
        pq.write_table(clusters, folder / "clusters.parquet")
        return {"until": chosen.until, "days": list(chosen.days), "suites": suites.id if suites else None, **summary(clusters)}

    return home.artifacts.build("corpus_snapshot", inputs, make)


def select(documents: pa.Table, signatures: pa.Table, suites: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[pa.Table, pa.Table]:
    """(kept documents with `cluster_id`, a verdict on every document), both in the order of day and id."""
    documents = documents.sort_by([("day", "ascending"), ("id", "ascending")])
    rows = documents.select(["id", "day", "uri", "kind", "text"]).to_pylist()
    signed = _aligned(rows, signatures)
    hashes: list[Any] = signed["text_hash"].to_pylist()
    contaminated = {match.document: match for match in find_contaminated([row["text"] for row in rows], suites)}
    superseded = _superseded(rows, hashes, contaminated)
    verdicts: dict[int, Row] = {
        i: _verdict(rows[i], rows[i]["id"], "contaminated", matched=match.question_id) for i, match in contaminated.items()
    }
    verdicts |= {i: _verdict(rows[i], rows[i]["id"], "superseded", kept_id=rows[newest]["id"]) for i, newest in superseded.items()}
    clean = [i for i in range(len(rows)) if i not in verdicts]
    items = [Item(str(i), (rows[i]["day"], rows[i]["id"]), rows[i]["text"], hashes[i]) for i in clean]
    for v in deduplicate(items, signature_matrix(signed)[clean]):
        row, twin = rows[int(v.id)], rows[int(v.kept_id)]["id"] if v.kept_id else None
        verdicts[int(v.id)] = _verdict(row, rows[int(v.cluster_id)]["id"], v.reason, kept_id=twin, jaccard=v.jaccard)
    clusters = pa.Table.from_pylist(
        [_reachable(verdicts[i], verdicts.get(superseded.get(i, -1))) for i in range(len(rows))], schema=CLUSTERS
    )
    kept = documents.append_column("cluster_id", clusters["cluster_id"]).filter(clusters["keep"])
    return kept, clusters


def _verdict(
    row: Row, cluster: str, reason: str, kept_id: str | None = None, jaccard: float | None = None, matched: str | None = None
) -> Row:
    verdict = {"id": row["id"], "day": row["day"], "cluster_id": cluster, "keep": reason == "kept", "reason": reason}
    return verdict | {"kept_id": kept_id, "jaccard": jaccard, "matched": matched}


def _reachable(verdict: Row, newest: Row | None) -> Row:
    """A superseded revision names the kept twin when its newest revision is itself a duplicate of that."""
    return verdict if newest is None or newest["keep"] else {**verdict, "kept_id": newest["kept_id"]}


def _aligned(rows: Sequence[Row], signatures: pa.Table) -> pa.Table:
    """The signatures in the order of `rows`; a document without one is an error."""
    at = {identity: i for i, identity in enumerate(signatures["id"].to_pylist())}
    missing = [row["id"] for row in rows if row["id"] not in at]
    if missing:
        raise ContractError(
            f"{len(missing)} documents have no signature (first: {missing[0]}): materialise `signatures` of the same days again"
        )
    return signatures.take([at[row["id"]] for row in rows])


def _superseded(rows: Sequence[Row], hashes: Sequence[int], contaminated: Mapping[int, object]) -> dict[int, int]:
    """Older revisions of an article (same uri, other text) and the newest one of each; rows are in the order of days."""
    newest: dict[str, int] = {row["uri"]: i for i, row in enumerate(rows) if row["kind"] == "article" and i not in contaminated}
    return {
        i: newest[row["uri"]]
        for i, row in enumerate(rows)
        if row["kind"] == "article" and i not in contaminated and hashes[i] != hashes[newest[row["uri"]]]
    }


def summary(clusters: pa.Table) -> dict[str, Any]:
    """Counts by reason, and how many clusters there are of each size above one."""
    reasons: list[Any] = clusters["reason"].to_pylist()
    sizes: dict[str, int] = {}
    for cluster in map(str, clusters["cluster_id"].to_pylist()):
        sizes[cluster] = sizes.get(cluster, 0) + 1
    several = [size for size in sizes.values() if size > 1]
    return {
        "documents": len(reasons),
        "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "cluster_sizes": {str(size): several.count(size) for size in sorted(set(several))},
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
