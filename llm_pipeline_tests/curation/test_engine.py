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

from llm_pipeline.curation.engine import choose, map_batches
from llm_pipeline.errors import ConfigError, ContractError

SCHEMA = pa.schema([("id", pa.string()), ("words", pa.list_(pa.string()))])
WORK = """
import os, sys
import pyarrow as pa, pyarrow.parquet as pq
from llm_pipeline.curation.engine import choose, map_batches
from llm_pipeline.curation.pii import load_policy, scrub_texts
from llm_pipeline.curation.signatures import sign
from llm_pipeline.curation.python_docs import doc_strings

def work(engine, address, out):
    choose(engine, address)
    texts = [doc.text + f" Mail {n}@example.com." for n, doc in zip(range(600), doc_strings())]
    policy = load_policy()
    rows = pa.table({"id": [str(n) for n in range(len(texts))], "text": texts})
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    clean = map_batches(lambda t: t.set_column(1, "text", pa.array(scrub_texts(t["text"].to_pylist(), policy)[0])), rows, schema, batch=64)
    hashes = dict(sign(clean["id"].to_pylist(), clean["text"].to_pylist()).select(["id", "text_hash"]).to_pandas().itertuples(index=False))
    pq.write_table(clean.append_column("hash", pa.array([hashes[i] for i in clean["id"].to_pylist()], pa.uint64())), out)
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


def words(rows: pa.Table) -> pa.Table:
    return pa.table({"id": rows["id"], "words": [str(text).split() for text in rows["text"].to_pylist()]})


def test_rows_keep_their_order_and_number() -> None:
    rows = pa.table({"id": [str(i) for i in range(5000)], "text": [f"word {i}" for i in range(5000)]})
    made = map_batches(words, rows, SCHEMA, batch=100)
    assert made["id"].to_pylist() == rows["id"].to_pylist()
    assert made["words"].to_pylist()[4999] == ["word", "4999"]
    assert map_batches(words, rows.slice(0, 0), SCHEMA) == SCHEMA.empty_table()


def test_a_step_that_loses_rows_is_an_error() -> None:
    rows = pa.table({"id": ["a", "b"], "text": ["x", "y"]})
    with pytest.raises(Exception, match="a step gave 1 rows for 2") as error:
        map_batches(lambda table: words(table.slice(1)), rows, SCHEMA)
    assert isinstance(error.value, ContractError) or "ContractError" in str(error.value)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ray'"):
        choose("rey")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'llm_pipeline[ray]'")
def test_a_ray_cluster_of_two_nodes_gives_the_same(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}
    for script, name in ((WORK + 'work("native", None, sys.argv[1])', "native"), (RAY, "ray")):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True, env=environment, timeout=240, capture_output=True)
    assert pq.read_table(tmp_path / "native").equals(pq.read_table(tmp_path / "ray"))
    assert pq.read_table(tmp_path / "ray").num_rows == 600
