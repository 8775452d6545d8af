"""What it costs the gateway's event loop to record, count and trace a request, and how long a reply waits for the disk."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llm_pipeline.records import Interaction
from llm_pipeline.serving.observability.interactions import LogSettings, SegmentWriter
from llm_pipeline.serving.observability.metrics import Metrics
from llm_pipeline.serving.observability.telemetry import Telemetry, trace_of
from llm_pipeline_tests.serving.test_telemetry import item

ROWS, CLIENTS = 4000, (1, 32, 256)


def row() -> Interaction:
    """An interaction with six turns and 2 kB of text."""
    turns = [{"role": role, "content": "How long does a card take? " * 8} for role in ("user", "assistant") * 3]
    return replace(item(), messages=[{"role": "system", "content": "Be brief."}, *turns], answer="It takes five days. " * 12)


def microseconds(work: Callable[[], Any], rows: int = ROWS) -> float:
    """The median over batches of 100."""
    times = []
    for _ in range(rows // 100):
        begun = time.perf_counter()
        for _ in range(100):
            work()
        times.append((time.perf_counter() - begun) / 100)
    return statistics.median(times) * 1e6


async def submit(writer: SegmentWriter, rows: int) -> float:
    """Processor time of the event loop's thread per row: handing it over and learning that it is durable."""
    made = [row() for _ in range(rows)]
    begun = time.thread_time()
    for start in range(0, rows, 32):
        await asyncio.gather(*(writer.append(one) for one in made[start : start + 32]))
    return (time.thread_time() - begun) / rows * 1e6


async def wait(writer: SegmentWriter, clients: int, rows: int) -> tuple[float, list[float]]:
    times: list[float] = []

    async def client() -> None:
        for _ in range(rows // clients):
            begun = time.perf_counter()
            await writer.append(row())
            times.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return rows / (time.perf_counter() - begun), sorted(times)


def main() -> None:
    console, metrics, telemetry, one = Console(width=120), Metrics(), Telemetry(), row()
    table = Table("on the event loop", "microseconds per request")
    with tempfile.TemporaryDirectory() as folder:
        for scrub in ("none", "pii"):
            writer = SegmentWriter(Path(folder) / scrub, LogSettings(scrub=scrub))  # type: ignore[arg-type]
            table.add_row(f"record, log, await durability ({scrub} scrubbed)", f"{asyncio.run(submit(writer, 1024)):.1f}")
            writer.close()
        table.add_row("making the record", f"{microseconds(lambda: Interaction(**vars(one))):.1f}")
        table.add_row("counting it (all metrics)", f"{microseconds(lambda: metrics.finished(one)):.1f}")
        table.add_row("traceparent", f"{microseconds(lambda: trace_of(None)):.1f}")
        table.add_row("telemetry.record, off", f"{microseconds(lambda: telemetry.record(one)):.1f}")
        table.add_row("for comparison: dataclasses.asdict", f"{microseconds(lambda: asdict(one), 1000):.1f}")
        console.print(table)
        table = Table("clients", "flush", "scrub", "rows/s", "wait p50 ms", "wait p99 ms", title="until a reply may end")
        for sync, scrub in (("background", "none"), ("background", "pii"), ("reply", "none")):
            for clients in CLIENTS:
                writer = SegmentWriter(Path(folder) / f"{sync}{scrub}{clients}", LogSettings(scrub=scrub, sync=sync))  # type: ignore[arg-type]
                rate, times = asyncio.run(wait(writer, clients, 256 if clients == 1 else 2048))
                writer.close()
                p50, p99 = times[len(times) // 2], times[int(0.99 * len(times))]
                table.add_row(str(clients), sync, scrub, f"{rate:,.0f}", f"{1000 * p50:.2f}", f"{1000 * p99:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
