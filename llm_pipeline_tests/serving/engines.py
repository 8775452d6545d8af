"""The real engine worker as a process of a test's own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_pipeline.serving.engine.command import answers
from llm_pipeline.serving.supervision.processes import free_port, start


@contextmanager
def running_engine(model: Path, log: Path, *options: str) -> Iterator[str]:
    """The address of an engine that answers; it must end by itself when it is asked to."""
    port = free_port()
    process = start("llm_pipeline.serving.engine.worker", ["--model", str(model), "--port", str(port), *options], log)
    try:
        deadline = time.monotonic() + 400
        while not answers({}, port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("the engine did not end on SIGTERM") from None
