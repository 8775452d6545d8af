"""The corpus engine gives the same rows in the same order on this machine's threads and on a Ray cluster of two nodes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_pipeline.curation.engine import choose, map_chunks
from llm_pipeline.errors import ConfigError

WORK = """
import sys
from dataclasses import replace
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from llm_pipeline.curation.engine import choose, map_chunks
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.pii import load_policy as load_pii
from llm_pipeline.curation.quality import filter_documents, load_policy
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.scrubbing import scrub_day
from llm_pipeline.curation.signatures import sign
from llm_pipeline.curation.sources import load_sources
from llm_pipeline.paths import DATA
from llm_pipeline.store import Home

def work(engine, address, out):
    choose(engine, address)
    day, policy, pii = "2026-01-02", load_policy(), load_pii()
    source = replace(load_sources(DATA / "sources.yaml")[0], options={"documents_per_day": 200})
    documents, _ = normalise(read_source(source, Home(Path(out + ".home")), day), day, (), policy.poison)
    kept, ledger = filter_documents(documents, day, policy, {"support": ("en",)})

    def step(chunk):
        clean, spans, changes = scrub_day(chunk, day, pii)
        return clean, spans, changes, sign(clean["id"].to_pylist(), clean["text"].to_pylist())

    clean, spans, changes, signed = map_chunks(step, kept, chunk=32)
    assert ledger.num_rows and spans.num_rows
    pq.write_table(clean.append_column("signature", signed["signature"]), out)
"""
RAY = (
    WORK
    + """
from ray.cluster_utils import Cluster
import ray
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
assert len(ray.nodes()) == 2
work("ray", cluster.address, sys.argv[1])
ray.shutdown()
cluster.shutdown()
"""
)


def test_chunks_come_back_in_their_order() -> None:
    rows = pa.table({"id": [str(i) for i in range(5000)], "text": [f"word {i}" for i in range(5000)]})

    def even(table: pa.Table) -> list[pa.Table]:
        chosen = table.take([i for i, name in enumerate(table["id"].to_pylist()) if int(name) % 2 == 0])
        return [table, chosen, pa.table({"n": [table.num_rows]})]

    whole, chosen, sizes = map_chunks(even, rows, chunk=400)
    assert whole.equals(rows)
    assert chosen["id"].to_pylist() == [str(i) for i in range(0, 5000, 2)]
    assert sizes["n"].to_pylist() == [400] * 12 + [200]


def test_an_empty_table_is_one_empty_chunk() -> None:
    rows = pa.table({"id": pa.array([], pa.string())})
    assert map_chunks(lambda table: [table], rows)[0].equals(rows)


def test_the_error_of_a_step_arrives() -> None:
    def step(table: pa.Table) -> list[pa.Table]:
        raise ValueError(f"no good: {table.num_rows} rows")

    with pytest.raises(Exception, match="no good: 2 rows"):
        map_chunks(step, pa.table({"id": ["a", "b"]}))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ray'"):
        choose("rey")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'llm_pipeline[ray]'")
def test_a_ray_cluster_of_two_nodes_gives_the_same(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
    for script, name in ((WORK + 'work("native", None, sys.argv[1])', "native"), (RAY, "ray")):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True, env=environment, timeout=240, capture_output=True)
    assert pq.read_table(tmp_path / "native").equals(pq.read_table(tmp_path / "ray"))
    assert pq.read_table(tmp_path / "ray").num_rows > 100
