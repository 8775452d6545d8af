"""A process of its own that compares what an engine answers to the model as it was trained, so that the supervisor loads no model.

python -m llm_pipeline.serving.traffic.probe --model DIR --url http://127.0.0.1:9000 --out parity.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_pipeline.serving.supervision.processes import die_with, start
from llm_pipeline.store import write_atomically

TOLERANCE = 0.05
"""Largest difference of a log-probability between the trained and the served model."""


class Probe:
    """The comparison under way."""

    def __init__(self, model: str, url: str, folder: Path, parent: int) -> None:
        self._out = folder / "parity.json"
        self._out.unlink(missing_ok=True)
        arguments = ["--model", model, "--url", url, "--out", str(self._out), "--parent", str(parent)]
        self._process: subprocess.Popen[bytes] = start("llm_pipeline.serving.traffic.probe", arguments, folder / "logs" / "parity.log")

    def result(self) -> dict[str, Any] | None:
        """None while it runs; else what it found, with `holds`."""
        code = self._process.poll()
        if code is None:
            return None
        if code != 0 or not self._out.exists():
            return {"holds": False, "error": f"ended with {code}, see logs/parity.log"}
        found: dict[str, Any] = json.loads(self._out.read_text())
        return found

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    options = parser.parse_args()
    die_with(options.parent)
    from llm_pipeline.serving.engine.parity import QUESTIONS, compare

    found = compare(options.model, options.url, QUESTIONS[:4], max_tokens=12)
    write_atomically(options.out, json.dumps(asdict(found) | {"holds": found.holds(TOLERANCE)}))


if __name__ == "__main__":
    main()
