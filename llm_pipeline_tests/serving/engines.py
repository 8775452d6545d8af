"""The real engine worker as a process of a test's own."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.serving.engine.command import answers, command
from llm_pipeline.serving.supervision.processes import Child, free_port, start
from llm_pipeline.serving.traffic.state import Spec


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


@dataclass
class Supervised:
    """An engine as the supervisor starts it."""

    url: str
    settings: Mapping[str, Any]
    port: int
    child: Child

    def ask(self, question: str, model: str = "default") -> str:
        body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 12, "temperature": 0}
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    def ends(self) -> bool:
        """Whether it ends by itself when it is asked to, and nothing answers any more."""
        assert self.child.process is not None
        self.child.process.terminate()
        self.child.process.wait(60)
        return not answers(self.settings, self.port, timeout=1)


@contextmanager
def supervised_engine(model: Path, settings: Mapping[str, Any], log: Path) -> Iterator[Supervised]:
    """An engine by its settings, once it answers; it may compile for minutes."""
    port = free_port()
    child = Child(command(settings, Spec(str(model), {}, {}), port), log)
    child.ensure()
    try:
        deadline = time.monotonic() + 1200
        while not answers(settings, port):
            assert child.running, log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield Supervised(f"http://127.0.0.1:{port}", settings, port, child)
    finally:
        child.stop(grace=60)
