"""Object stores, each on a server of the test's own: only what is new is fetched, and what was fetched is read again without them."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

from llm_pipeline.curation.connectors import objects, retry
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.store import Home, table_hash

DAY = "2026-01-01"
BUCKET = "bucket"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The published key of the emulator's account (learn.microsoft.com, Azurite)."""


@contextmanager
def _s3() -> Iterator[tuple[str, dict[str, Any]]]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield "s3", {"endpoint_url": f"http://{host}:{port}", "key": "${TEST_STORE_KEY}", "secret": "s"}
    server.stop()


@contextmanager
def _gcs() -> Iterator[tuple[str, dict[str, Any]]]:
    _need("gcsfs", "gcp_storage_emulator")
    server = importlib.import_module("gcp_storage_emulator.server").create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    address = f"http://127.0.0.1:{server._api._httpd.socket.getsockname()[1]}"
    body = json.dumps({"name": BUCKET}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{address}/storage/v1/b?project=p", body, {"Content-Type": "application/json"})).close()
    yield "gs", {"endpoint_url": address, "token": "anon"}
    server.stop()


@contextmanager
def _azure() -> Iterator[tuple[str, dict[str, Any]]]:
    _need("adlfs")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not on the PATH: npm install --global azurite")
    command = [
        program,
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        address = next(line.split()[-1] for line in server.stdout if "successfully listens" in line)
        account = f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};BlobEndpoint={address}/devstoreaccount1"
        yield "az", {"connection_string": f"DefaultEndpointsProtocol=http;{account};"}
        server.terminate()
        server.communicate()


def _need(*packages: str) -> None:
    if absent := [name for name in packages if importlib.util.find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(absent)} (the extras [gcs] and [azure], and the package gcp-storage-emulator)")


@pytest.fixture(scope="module", params=[_s3, _gcs, _azure], ids=["s3", "gcs", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """(scheme, options of a source, file system) of a store with an empty bucket."""
    with pytest.MonkeyPatch.context() as patch, request.param() as (scheme, options):
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks a gRPC service that the emulator does not have
        patch.setenv("TEST_STORE_KEY", "k")
        files = fsspec.filesystem(scheme, **options | ({"key": "k"} if "key" in options else {}))
        if scheme != "gs":
            files.mkdir(BUCKET)
        yield scheme, options, files


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "pause", lambda _: None)


def _source(scheme: str, options: dict[str, Any], path: str) -> Source:
    return Source("remote", "files", uri=f"{scheme}://{path}", options=options, licence="CC0-1.0", owner="me", consent="mine")


def _texts(source: Source, home: Home) -> list[str]:
    documents, _ = normalise(read_source(source, home, DAY), DAY)
    return sorted(documents["text"].to_pylist())


def _put(files: Any, name: str, content: bytes) -> None:
    with files.open(f"{BUCKET}/{name}", "wb") as file:
        file.write(content)


def test_of_a_bucket_only_what_changed_is_fetched(
    store: tuple[str, dict[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, options, files = store
    source, home = _source(scheme, options, f"{BUCKET}/corpus"), Home(tmp_path)
    _put(files, "corpus/a.txt", b"The first text.")
    _put(files, "corpus/deep/b.jsonl", b'{"text": "A row of text."}\n')
    assert _texts(source, home) == ["A row of text.", "The first text."]

    fetched: list[str] = []
    fetch = objects._fetched
    monkeypatch.setattr(objects, "_fetched", lambda fs, full, landing: fetched.append(full) or fetch(fs, full, landing))
    before = read_source(source, home, DAY)
    assert fetched == []
    _put(files, "corpus/a.txt", b"The first text, changed.")
    _put(files, "corpus/c.txt", b"A new text.")
    files.rm(f"{BUCKET}/corpus/deep/b.jsonl")
    assert _texts(source, home) == ["A new text.", "The first text, changed."]
    assert [full.rsplit("/", 1)[-1] for full in fetched] == ["a.txt", "c.txt"]
    assert before["retrieved_at"].null_count == 0


def test_out_of_reach_what_was_fetched_is_read_again(
    store: tuple[str, dict[str, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, options, files = store
    _put(files, "one/a.txt", b"The first text.")
    source, home = _source(scheme, options, f"{BUCKET}/one/a.txt"), Home(tmp_path)
    first = read_source(source, home, DAY)
    assert first["content"].to_pylist() == [b"The first text."]

    def away(*_: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(objects, "_listed", away)
    assert table_hash(read_source(source, home, DAY)) == table_hash(first)
    with pytest.raises(InputError, match="cannot be reached: ConnectionError: away"):
        read_source(source, Home(tmp_path / "other"), DAY)


def test_a_missing_bucket_is_named(store: tuple[str, dict[str, Any], Any], tmp_path: Path) -> None:
    scheme, options, _ = store
    with pytest.raises(InputError, match="nowhere"):
        read_source(_source(scheme, options, "nowhere/x"), Home(tmp_path), DAY)


def test_a_missing_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_STORE_KEY", raising=False)
    with pytest.raises(ConfigError, match="TEST_STORE_KEY is not set"):
        read_source(_source("s3", {"key": "${TEST_STORE_KEY}"}, "nowhere/x"), Home(tmp_path), DAY)


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="the package is installed")
def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"llm_pipeline\[gcs\]"):
        read_source(_source("gs", {}, "bucket/x"), Home(tmp_path), DAY)


def test_names_cannot_leave_the_folder(store: tuple[str, dict[str, Any], Any], tmp_path: Path) -> None:
    scheme, options, files = store
    if scheme == "s3":
        files.pipe(f"{BUCKET}/odd/../up.txt", b"An odd name.")
        assert _texts(_source(scheme, options, f"{BUCKET}/odd"), Home(tmp_path)) == ["An odd name."]
        assert not (tmp_path / "landing" / "up.txt").exists()
    assert objects._safe("../../a") == "%2E%2E/%2E%2E/a"
    assert objects._safe("a//b/./c") == "a/%20/b/%2E/c"
