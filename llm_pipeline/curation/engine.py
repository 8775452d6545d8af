"""The corpus engine: one Daft plan that takes batches of rows through a function, on this machine or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from llm_pipeline.errors import ConfigError, ContractError, near

ENGINES = ("native", "ray")
Step = Callable[[pa.Table], pa.Table]


def choose(name: str, address: str | None = None) -> None:
    """Run the plans of this process on `native` (threads) or `ray` (the cluster at `address`; without one, one on this machine)."""
    if name not in ENGINES:
        raise ConfigError(f"LLM_PIPELINE_ENGINE={name}{near(name, ENGINES)}")
    import daft

    if name == "native":
        daft.set_runner_native()
        return
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ConfigError("LLM_PIPELINE_ENGINE=ray: Ray is not installed; pip install 'llm_pipeline[ray]'") from None
    daft.set_runner_ray(address=address, noop_if_initialized=True)


def map_batches(step: Step, rows: pa.Table, schema: pa.Schema, *, batch: int = 1024) -> pa.Table:
    """`step` applied to batches of `rows`; it gives exactly one row of `schema` for every row, and their order is kept."""
    import daft

    if not rows.num_rows:
        return schema.empty_table()
    packed = daft.DataType.from_arrow_type(pa.struct(list(schema)))

    @daft.func.batch(return_dtype=packed, batch_size=batch)
    def run(column: daft.Series) -> Any:
        taken: Any = column.to_arrow()
        made = step(pa.Table.from_struct_array(taken))
        if made.num_rows != len(taken):
            raise ContractError(f"a step gave {made.num_rows} rows for {len(taken)}")
        return daft.Series.from_arrow(made.cast(schema).combine_chunks().to_struct_array().combine_chunks(), "made")

    table = pa.table({"at": pa.array(range(rows.num_rows), pa.int64()), "row": rows.to_struct_array()})
    frame = daft.from_arrow(table)
    if daft.get_or_infer_runner_type() == "ray":
        frame = frame.into_partitions(max(2, rows.num_rows // (4 * batch)))  # one machine's threads share a table, a cluster does not
    done = frame.select(daft.col("at"), run(daft.col("row")).alias("made")).to_arrow().sort_by("at")
    return pa.Table.from_struct_array(done["made"]).cast(schema)
