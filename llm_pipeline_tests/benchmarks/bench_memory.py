"""`llm-pipeline curate` inside a memory limit that the kernel enforces, on corpora of which the largest is several times the limit.

Page cache counts towards the limit as well and is reclaimed under it; what stays is what the process truly needs. Needs a control group
that can be written to (root, or a delegated one).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline_tests.benchmarks.bench_curation import texts

LIMITS = {"memory.limit_in_bytes": Path("/sys/fs/cgroup/memory"), "memory.max": Path("/sys/fs/cgroup")}
"""The file that holds the limit, in version 1 and in version 2 of control groups, and where groups of that version are."""
RUN = """
import json, os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
from llm_pipeline.curation.curate import curate
summary = curate(Path(sys.argv[2]), Path(sys.argv[3]))
[peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(json.dumps(summary | {"peak_mb": int(peak) / 1024}))
"""


@contextmanager
def memory_group(megabytes: int) -> Iterator[Path]:
    """A control group that may use `megabytes` of memory in all; whoever needs more is killed by the kernel."""
    for name, root in LIMITS.items():
        group = root / f"llm_pipeline_{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(megabytes << 20))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    raise typer.BadParameter(f"no control group for memory can be made under {' or '.join(map(str, LIMITS.values()))}: run as root")


def curate_within(limit: int, megabytes: float, folder: Path) -> dict[str, Any]:
    path = folder / "corpus.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts(megabytes)):
            file.write(json.dumps({"id": number, "text": text}) + "\n")
    with memory_group(limit) as group:
        command = [sys.executable, "-c", RUN, str(group), str(path), str(folder / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": "killed: out of memory" if done.returncode == -9 else done.stderr[-300:]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(
    base: float = typer.Option(96.0, help="Megabytes of the smallest corpus; the largest has 16 times as much."),
    limit: int = typer.Option(640, help="Megabytes of memory that the process may use."),
) -> None:
    table = Table("MB of text", "times the limit", "documents", "kept", "MB per CPU s", "peak resident MB", "outcome")
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory() as folder:
            found = curate_within(limit, base * times, Path(folder))
        size = f"{base * times:.0f}", f"{base * times / limit:.1f}"
        if "failed" in found:
            table.add_row(*size, "", "", "", "", found["failed"])
            continue
        seconds = sum(stage["cpu_seconds"] for stage in found["stages"].values())
        rate = f"{base * times / seconds:.2f}"
        table.add_row(*size, f"{found['received']:,}", f"{found['kept']:,}", rate, f"{found['peak_mb']:.0f}", "done")
    Console(width=140).print(f"limit {limit} MB", table)


if __name__ == "__main__":
    typer.run(main)
