"""Contracts hold or say what is broken, without values; the page stands alone."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from llm_pipeline.config import load_yaml
from llm_pipeline.curation.contract_page import render, write_page
from llm_pipeline.curation.contracts import CONTRACTS, load_contract, validate
from llm_pipeline.curation.normalise import DOCUMENT_SCHEMA
from llm_pipeline.errors import ConfigError, ContractError

DAY = "2026-01-01"
GOOD = {
    "day": DAY,
    "id": "0123456789abcdef",
    "source": "s",
    "uri": "u",
    "row": 0,
    "kind": "note",
    "title": "t",
    "text": "secret <b>words</b>",
    "language": "en",
    "language_score": 0.9,
    "licence": "MIT",
}


def _table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([{**GOOD, **row} for row in rows], schema=DOCUMENT_SCHEMA)


@pytest.mark.parametrize("table", list(load_yaml(CONTRACTS)))
def test_every_shipped_contract_loads(table: str) -> None:
    assert len(load_contract(table)) >= 1


@pytest.mark.parametrize("rows", [[], [{}], [{}, {"id": "fedcba9876543210"}]])
def test_good_rows_and_an_empty_day_hold(rows: list[dict[str, object]]) -> None:
    result = validate("documents", DAY, _table(*rows))
    assert result.success, [outcome for outcome in result.outcomes if not outcome.success]
    result.raise_if_broken()


@pytest.mark.parametrize(
    ("row", "broken"),
    [
        ({}, "ExpectColumnValuesToBeUnique"),
        ({"id": "short"}, "ExpectColumnValuesToMatchRegex"),
        ({"id": "fedcba9876543210", "text": None}, "ExpectColumnValuesToNotBeNull"),
        ({"id": "fedcba9876543210", "kind": "poem"}, "ExpectColumnValuesToBeInSet"),
        ({"id": "fedcba9876543210", "licence": None}, "ExpectColumnValuesToNotBeNull"),
        ({"id": "fedcba9876543210", "language_score": 1.5}, "ExpectColumnValuesToBeBetween"),
    ],
)
def test_broken_rows_are_counted(row: dict[str, object], broken: str) -> None:
    result = validate("documents", DAY, _table({}, row))
    failed = [outcome for outcome in result.outcomes if not outcome.success]
    assert [outcome.type for outcome in failed] == [broken]
    assert failed[0].failed >= 1
    with pytest.raises(ContractError, match=broken):
        result.raise_if_broken()


def test_a_missing_column_breaks_the_contract_and_no_exception_escapes() -> None:
    result = validate("documents", DAY, _table({}).drop_columns(["id"]))
    assert not result.success


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t: [{type: ExpectColumnValuesToBeUniqe, column: id, why: x}]", "did you mean 'ExpectColumnValuesToBeUnique'"),
        ("t: [{type: ExpectColumnValuesToBeUnique, column: id}]", "expected at least `type` and `why`"),
        ("other: []", "no contract for table 't'"),
    ],
)
def test_a_wrong_contract_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "contracts.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        validate("t", DAY, _table({}), path)


def test_the_page_stands_alone_and_shows_no_values(tmp_path: Path) -> None:
    result = validate("documents", DAY, _table({}, {"id": "bad", "text": "secret"}))
    page = write_page(result, tmp_path).read_text("utf-8")
    assert page == render(result)
    assert (tmp_path / "contracts" / "documents" / f"{DAY}.html").exists()
    assert "is broken" in page
    assert "secret" not in page
    assert not re.search(r"(src|href)\s*=|https?://|@import", page)
