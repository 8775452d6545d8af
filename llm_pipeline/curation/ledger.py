"""The ledger beside every table: which rule removed, quarantined or changed which record, counted exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from llm_pipeline.curation.tally import batches, frequency, tally
from llm_pipeline.store import Home

Action = Literal["removed", "quarantined", "changed"]

_COLUMNS: dict[str, Any] = {
    "day": pa.string(),
    "id": pa.string(),
    "uri": pa.string(),
    "row": pa.int64(),
    "stage": pa.string(),
    "rule": pa.string(),
    "action": pa.string(),
    "score": pa.float64(),
    "detail": pa.string(),
}
LEDGER_SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class Entry:
    """What one rule did to one record; `detail` never holds a private value."""

    id: str | None
    uri: str
    row: int
    stage: str
    rule: str
    action: Action
    score: float | None = None
    detail: str = ""


_VALUES = attrgetter(*LEDGER_SCHEMA.names[1:])


def ledger_table(day: str, entries: Iterable[Entry]) -> pa.Table:
    rows = list(map(_VALUES, entries))
    columns = zip(*rows, strict=True) if rows else [()] * (len(LEDGER_SCHEMA) - 1)
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip([[day] * len(rows), *columns], LEDGER_SCHEMA, strict=True)],
        schema=LEDGER_SCHEMA,
    )


LEDGERS = ("documents_ledger", "filtered_ledger", "scrubbed_ledger")


def whole_ledger(home: Home, days: Sequence[str] | None = None) -> pa.Table:
    """All days' removals, quarantines and changes as one table, with what the newest snapshot left out of those days."""
    tables = [home.lake.read(name, there) for name in LEDGERS if (there := _known(home.lake.days(name), days))]
    if home.artifacts.has("corpus_snapshot"):
        clusters = home.artifacts.named("corpus_snapshot").file("clusters.parquet")
        tables += [_left_out(table, days) for table in batches(clusters, "id", "day", "keep", "reason", "kept_id", "matched", "jaccard")]
    return pa.concat_tables(tables) if tables else LEDGER_SCHEMA.empty_table()


def _known(have: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    return [day for day in have if wanted is None or day in wanted]


def _left_out(clusters: pa.Table, days: Sequence[str] | None) -> pa.Table:
    """The ledger of what a snapshot left out of some days."""
    gone = clusters.filter(pc.invert(clusters["keep"]))
    if days is not None:
        gone = gone.filter(pc.is_in(gone["day"], pa.array(days, pa.string())))
    joined: Any = pc.binary_join_element_wise
    twins, leaks = (joined(pa.scalar(word), gone[name], " ") for word, name in (("twin of", "kept_id"), ("holds", "matched")))
    made = {
        "day": gone["day"],
        "id": gone["id"],
        "rule": gone["reason"],
        "score": gone["jaccard"],
        "detail": pc.coalesce(twins, leaks, ""),
        **{name: pa.repeat(pa.scalar(value, pa.string()), gone.num_rows) for name, value in _SNAPSHOT.items()},
        "row": pa.repeat(pa.scalar(0, pa.int64()), gone.num_rows),
    }
    return pa.table({name: made[name] for name in LEDGER_SCHEMA.names}).cast(LEDGER_SCHEMA)


_SNAPSHOT = {"uri": "", "stage": "corpus_snapshot", "action": "removed"}


def counts_by_rule(ledger: pa.Table) -> list[dict[str, Any]]:
    """[{action, rule, count}], the most frequent first."""
    pairs = tally([ledger], "action", "rule")
    return [
        {"action": action, "rule": rule, "count": n} for (action, rule), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    ]


@dataclass(frozen=True)
class Reconciliation:
    """Whether what went in is what came out: every record kept, removed or quarantined, once."""

    received: int
    kept: int
    removed: int
    quarantined: int

    @property
    def exact(self) -> bool:
        return self.received == self.kept + self.removed + self.quarantined

    def __str__(self) -> str:
        sign = "=" if self.exact else "!="
        return f"{self.received} received {sign} {self.kept} kept + {self.removed} removed + {self.quarantined} quarantined"


def reconcile(received: int, kept: int, ledger: pa.Table) -> Reconciliation:
    actions = frequency(ledger, "action")
    return Reconciliation(received, kept, actions["removed"], actions["quarantined"])
