"""What assets are given from outside; the only reader of environment variables."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from llm_pipeline.store import Home


def home_folder() -> Path:
    return Path(os.environ.get("LLM_PIPELINE_HOME", ".llm_pipeline")).resolve()


class HomeResource(dg.ConfigurableResource[Home]):
    """The folder with everything the pipeline makes; empty means `LLM_PIPELINE_HOME`, or `.llm_pipeline` without it."""

    root: str = ""

    def open(self) -> Home:
        use_engine()
        return Home(Path(self.root).resolve() if self.root else home_folder())


def use_engine() -> None:
    """Let the corpus engine run where `LLM_PIPELINE_ENGINE` says: `native`, or `ray` on the cluster at `RAY_ADDRESS`."""
    name = os.environ.get("LLM_PIPELINE_ENGINE", "native")
    if name != "native":
        from llm_pipeline.curation.engine import choose

        choose(name, os.environ.get("RAY_ADDRESS"))


def dagster_folder() -> Path:
    """Where Dagster keeps its records: `DAGSTER_HOME`, else beside everything else."""
    return Path(os.environ.get("DAGSTER_HOME") or home_folder() / "dagster")


def postgres_url() -> str | None:
    """The address of a PostgreSQL for Dagster's records; `postgresql://` alone would name a driver that is not installed."""
    url = os.environ.get("LLM_PIPELINE_POSTGRES_URL") or None
    return url.replace("postgresql://", "postgresql+psycopg2://", 1) if url else None


def endpoint_database() -> str | None:
    """The address of the endpoint's database, `postgresql://...`, when it is not to be a file in the home."""
    return os.environ.get("LLM_PIPELINE_ENDPOINT_DATABASE") or None
