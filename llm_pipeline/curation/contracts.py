"""Contracts of the tables: Great Expectations suites declared in YAML, run on a day before it is published."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llm_pipeline.config import load_yaml
from llm_pipeline.errors import ConfigError, ContractError, near
from llm_pipeline.paths import DATA

CONTRACTS = DATA / "policies" / "contracts.yaml"


@dataclass(frozen=True)
class Expectation:
    """One row of a contract."""

    type: str
    why: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one expectation said; `failed` counts rows, and no value is kept (it may be private)."""

    type: str
    column: str
    why: str
    success: bool
    checked: int
    failed: int
    detail: str = ""


@dataclass(frozen=True)
class ContractResult:
    table: str
    day: str
    rows: int
    outcomes: tuple[Outcome, ...]

    @property
    def success(self) -> bool:
        return all(outcome.success for outcome in self.outcomes)

    def raise_if_broken(self) -> None:
        if broken := [f"{o.type}({o.column}): {o.failed} of {o.checked} rows" for o in self.outcomes if not o.success]:
            raise ContractError(f"{self.table}, {self.day}: {'; '.join(broken)}")


def load_contract(table: str, path: Path = CONTRACTS) -> tuple[Expectation, ...]:
    """The expectations declared for `table`; an unknown expectation or table is a ConfigError."""
    declared = load_yaml(path) or {}
    if table not in declared:
        raise ConfigError(f"{path}: no contract for table {table!r}{near(table, declared)}")
    rows: list[Expectation] = []
    for number, entry in enumerate(declared[table], 1):
        if not isinstance(entry, Mapping) or not {"type", "why"} <= set(entry):
            raise ConfigError(f"{path}: {table}: entry {number}: received {entry!r}, expected at least `type` and `why`")
        rows.append(Expectation(entry["type"], entry["why"], {key: value for key, value in entry.items() if key not in ("type", "why")}))
    return tuple(rows)


def validate(table: str, day: str, rows: pa.Table, path: Path = CONTRACTS) -> ContractResult:
    """Run the contract of `table` on the rows of one day (or on a whole snapshot, `day` then names it)."""
    expectations = load_contract(table, path)
    used = _used(expectations)
    # Columns of no expectation keep their names (for the column set) and lose their values, which saves the conversion.
    narrow = pa.table(
        {name: rows[name] if name in used else pa.nulls(rows.num_rows, pa.string()) for name in rows.column_names}
        or {"empty": pa.array([], pa.string())}
    )
    batch = _batch(narrow.to_pandas())
    return ContractResult(
        table, day, rows.num_rows, tuple(_outcome(batch, expectation, rows.num_rows, path) for expectation in expectations)
    )


def rows_for(table: str, file: Path, path: Path = CONTRACTS) -> pa.Table:
    """What `validate` needs of a Parquet file: the values of the columns that expectations look at, and the names of the others."""
    names, used = pq.read_schema(file).names, _used(load_contract(table, path))
    rows = pq.read_table(file, columns=[name for name in names if name in used])
    return pa.table({name: rows[name] if name in used else pa.nulls(rows.num_rows, pa.string()) for name in names})


def _used(expectations: Sequence[Expectation]) -> set[str]:
    return {str(e.arguments["column"]) for e in expectations if "column" in e.arguments}


@cache
def _gx() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        import great_expectations.expectations
    return gx


def _batch(frame: Any) -> Any:
    gx = _gx()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
    return asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})


def _outcome(batch: Any, expectation: Expectation, rows: int, path: Path) -> Outcome:
    known = _gx().expectations
    made = getattr(known, expectation.type, None)
    if made is None:
        names = [name for name in dir(known) if name.startswith("Expect")]
        raise ConfigError(f"{path}: unknown expectation {expectation.type!r}{near(expectation.type, names)}")
    column = str(expectation.arguments.get("column", "(table)"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answer = batch.validate(made(**expectation.arguments), result_format="BASIC").to_json_dict()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{path}: {expectation.type}({column}): {error}") from error
    result: Mapping[str, Any] = answer.get("result") or {}
    problem = _problem(answer.get("exception_info"))
    failed = int(result.get("unexpected_count") or (0 if answer["success"] else rows))
    return Outcome(
        expectation.type,
        column,
        expectation.why,
        bool(answer["success"]) and not problem,
        int(result.get("element_count") or rows),
        failed,
        problem,
    )


def _problem(info: Any) -> str:
    """The message of an exception inside Great Expectations, which it returns and does not raise."""
    found: Sequence[Any] = [info, *info.values()] if isinstance(info, Mapping) else []
    for entry in found:
        if isinstance(entry, Mapping) and entry.get("raised_exception"):
            return str(entry.get("exception_message") or "raised an exception")[:200]
    return ""
