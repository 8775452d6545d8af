"""Whatever the bytes are: rows or a reason, never an exception, and books that balance."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.curation.ledger import reconcile
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.quality import load_policy
from llm_pipeline.curation.readers import FORMATS, raw_batches, read_file
from llm_pipeline.curation.sources import Source
from llm_pipeline_tests.curation.samples import SAMPLES

SOURCE = Source("user", "files", "MIT", "me", "mine", uri="/nowhere")
POISON = load_policy().poison
pytestmark = pytest.mark.filterwarnings("ignore")


def _zip(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.jsonl", data)
    return sink.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@st.composite
def _damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good file with a part cut off, overwritten or inserted."""
    at = draw(st.integers(0, len(whole)))
    to = draw(st.integers(at, len(whole)))
    return whole[:at] + draw(st.binary(max_size=20)) + whole[to:]


def _read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for record in read_file(path, path.parent):
        assert record.problem is None or ":" in record.problem
    received = kept = 0
    for raw in raw_batches(SOURCE, read_file(path, path.parent)):
        documents, ledger = normalise(raw, "2026-01-01", (), POISON)
        assert reconcile(raw.num_rows, documents.num_rows, ledger).exact
        received, kept = received + raw.num_rows, kept + documents.num_rows
    assert received >= kept


@pytest.mark.parametrize("suffix", [*FORMATS, "jsonl.gz", "csv.zst", "parquet.gz", "zip"])
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_in_any_format(tmp_path_factory: pytest.TempPathFactory, suffix: str, data: bytes) -> None:
    _read(tmp_path_factory.getbasetemp() / f"a.{suffix}", data)


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_damaged_files_of_every_format(tmp_path_factory: pytest.TempPathFactory, suffix: str, packing: str, data: st.DataObject) -> None:
    damaged = data.draw(_damaged(SAMPLES[suffix]))
    whole = PACKED[packing](damaged)
    _read(tmp_path_factory.getbasetemp() / f"a.{suffix}{packing}", whole if data.draw(st.booleans()) else data.draw(_damaged(whole)))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_damaged_archives(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    _read(tmp_path_factory.getbasetemp() / "a.zip", data.draw(_damaged(_zip(SAMPLES["jsonl"]))))


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(alphabet=st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_ROWS = st.dictionaries(
    st.sampled_from(["id", "text", "title", "messages", "kind", "url", "day", "html", "prompt", "response", "role", "content"]),
    _JSON | st.just("2026-01-01") | st.just("[1") | st.just("<p>x</p>"),
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_ROWS | _JSON, max_size=5))
def test_any_json(tmp_path_factory: pytest.TempPathFactory, rows: list[object]) -> None:
    _read(tmp_path_factory.getbasetemp() / "a.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
