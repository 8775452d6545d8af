"""The ledger beside every table: which rule removed, quarantined or changed which record, counted exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

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
        clusters = pq.read_table(home.artifacts.named("corpus_snapshot").file("clusters.parquet"))
        gone = [row for row in clusters.to_pylist() if not row["keep"] and (days is None or row["day"] in days)]
        tables.append(pa.concat_tables([ledger_table(row["day"], [_left_out(row)]) for row in gone] or [LEDGER_SCHEMA.empty_table()]))
    return pa.concat_tables(tables) if tables else LEDGER_SCHEMA.empty_table()


def _known(have: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    return [day for day in have if wanted is None or day in wanted]


def _left_out(row: Mapping[str, Any]) -> Entry:
    detail = f"twin of {row['kept_id']}" if row["kept_id"] else f"holds {row['matched']}" if row["matched"] else ""
    return Entry(row["id"], "", 0, "corpus_snapshot", row["reason"], "removed", row["jaccard"], detail)


def counts_by_rule(ledger: pa.Table) -> list[dict[str, Any]]:
    """[{action, rule, count}], the most frequent first."""
    pairs = Counter(zip(ledger["action"].to_pylist(), ledger["rule"].to_pylist(), strict=True))
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
    actions = Counter(ledger["action"].to_pylist())
    return Reconciliation(received, kept, actions["removed"], actions["quarantined"])
