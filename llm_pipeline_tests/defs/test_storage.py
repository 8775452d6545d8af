"""Dagster's own records lie in SQLite, or in the PostgreSQL that one environment variable names."""

from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import create_engine, text

from llm_pipeline.defs.drive import Driver
from llm_pipeline.store import Home


@dg.asset
def thing() -> None:
    return None


DEFS = dg.Definitions(assets=[thing], jobs=[dg.define_asset_job("work", selection=[thing])])


def materialised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Run the job on a new instance and return the assets that it knows of."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("LLM_PIPELINE_HOME", "")
    driver = Driver(DEFS, Home(folder), lambda line: None)
    driver.job("work")
    return {key.to_user_string() for key in driver.instance.all_asset_keys()}


def test_sqlite_without_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM_PIPELINE_POSTGRES_URL", raising=False)
    assert materialised(tmp_path, monkeypatch) == {"thing"}
    assert list(tmp_path.rglob("*.db"))


def test_postgresql_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: str) -> None:
    monkeypatch.setenv("LLM_PIPELINE_POSTGRES_URL", postgres)
    assert materialised(tmp_path, monkeypatch) == {"thing"}
    assert not list(tmp_path.rglob("*.db"))
    with create_engine(postgres.replace("postgresql://", "postgresql+psycopg2://")).connect() as connection:
        assert connection.execute(text("select count(*) from runs where status = 'SUCCESS'")).scalar() == 1
