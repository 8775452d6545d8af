"""Where Dagster keeps its own records: SQLite in its home folder, or PostgreSQL when its address is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Field
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from llm_pipeline.defs.resources import dagster_folder, postgres_url


class ChosenStorage(DagsterSqliteStorage):
    """Named in dagster.yaml; it stays abstract: building it from configuration gives the storage that the environment asks for."""

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> DagsterStorage:  # type: ignore[override]
        url = postgres_url()
        if url is None:
            return DagsterSqliteStorage.from_local(str(dagster_folder() / "storage"), inst_data)
        from dagster_postgres import DagsterPostgresStorage

        return DagsterPostgresStorage(postgres_url=url, should_autocreate_tables=True, inst_data=inst_data)
