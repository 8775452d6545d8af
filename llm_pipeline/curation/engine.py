"""The corpus engine: one Daft plan that takes a table chunk by chunk through a function, on this machine or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from llm_pipeline.errors import ConfigError, near

ENGINES = ("native", "ray")
Step = Callable[[pa.Table], Sequence[pa.Table]]


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


def map_chunks(step: Step, rows: pa.Table, *, chunk: int = 2048) -> tuple[pa.Table, ...]:
    """`step` applied to chunks of `rows`, each of the tables that it gives put together again in the order of the chunks."""
    import daft

    pieces = [_packed(rows.slice(at, chunk)) for at in range(0, max(1, rows.num_rows), chunk)]

    @daft.func(return_dtype=daft.DataType.list(daft.DataType.binary()))
    def run(piece: bytes) -> list[bytes]:
        return [_packed(made) for made in step(_unpacked(piece))]

    frame = daft.from_pydict({"at": list(range(len(pieces))), "piece": pieces})
    if daft.get_or_infer_runner_type() == "ray":
        frame = frame.into_partitions(len(pieces))  # one machine's threads share a table, a cluster does not
    done = frame.select(daft.col("at"), run(daft.col("piece")).alias("made")).to_arrow().sort_by("at")
    return tuple(pa.concat_tables(map(_unpacked, parts)) for parts in zip(*done["made"].to_pylist(), strict=True))


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
