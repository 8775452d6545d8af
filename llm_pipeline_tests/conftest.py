"""Every test runs offline, without telemetry, in a home of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

OFFLINE = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OPENBLAS_NUM_THREADS": "1",  # small products on busy cores are slower in parallel
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
}
os.environ.update(OFFLINE)  # before any test module imports a library that reads them
os.environ.pop("DAGSTER_HOME", None)
os.environ["LLM_PIPELINE_HOME"] = tempfile.mkdtemp(prefix="llm_pipeline_tests_")  # never the home of the person who tests
atexit.register(shutil.rmtree, os.environ["LLM_PIPELINE_HOME"], ignore_errors=True)

from llm_pipeline.store import Home  # noqa: E402

settings.register_profile("default", deadline=None)  # a busy machine is no failure
# What passed once passes again; HYPOTHESIS_PROFILE=default looks further.
settings.register_profile("repeatable", settings.get_profile("default"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-graph", action="store_true", help="record the asset graph anew in llm_pipeline_tests/defs/graph.json")
    parser.addoption("--update-picture", action="store_true", help="record docs/graph.png anew from the Dagster UI")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home folder, also the one that `LLM_PIPELINE_HOME` names."""
    monkeypatch.setenv("LLM_PIPELINE_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def banking77() -> Path:
    """The public set of bank questions by intent, beside the project where it is present."""
    folder = SHARED_DATA / "banking77"
    if not folder.is_dir():
        pytest.skip(f"the public data set banking77 is not in {folder}")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session's own on 127.0.0.1, its database empty."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL: install Debian's package `postgresql` (apt-get install postgresql)")
    owner = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="llm_pipeline_postgres_", dir="/tmp"))  # where its owner may go, whoever tests
    if owner:
        shutil.chown(folder, owner)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs[-1].parent / program), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, user=owner, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    run("initdb", "--auth", "trust", "--username", "tester", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    run("pg_ctl", "--options", options, "--log", str(folder / "log"), "--wait", "start")
    try:
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "--mode", "fast", "--wait", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def xquad() -> Path:
    """The public set of passages and questions, beside the project where it is present."""
    folder = SHARED_DATA / "xquad"
    if not folder.is_dir():
        pytest.skip(f"the public data set xquad is not in {folder}")
    return folder
