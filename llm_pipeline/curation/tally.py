"""Counting rows by what they say, a table at a time: memory grows with the number of different answers, not with that of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def tally(tables: Iterable[pa.Table], *names: str) -> Counter[tuple[Any, ...]]:
    """How many rows have which values in these columns."""
    found: Counter[tuple[Any, ...]] = Counter()
    for table in tables:
        counted = table.group_by(list(names)).aggregate([([], "count_all")])
        for *values, n in zip(*(counted[name].to_pylist() for name in (*names, "count_all")), strict=True):
            found[tuple(values)] += n
    return found


def frequency(table: pa.Table, name: str) -> Counter[str]:
    """How often each value of a column occurs; nulls don't count."""
    return Counter({str(value): n for (value,), n in tally([table], name).items() if value is not None})


def batches(path: Path, *names: str) -> Iterator[pa.Table]:
    """These columns of a Parquet file, some thousand rows at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(names)):
            yield pa.Table.from_batches([batch])
