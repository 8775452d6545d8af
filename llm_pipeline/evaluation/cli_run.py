"""What `llm-pipeline evaluate` does: suites and benchmarks on one model, into one folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.evaluation.endpoint import Endpoint
from llm_pipeline.evaluation.evaluate import evaluate_suites, write_evaluation
from llm_pipeline.evaluation.harness import PREFIX, run_task
from llm_pipeline.evaluation.responder import is_url, open_responder
from llm_pipeline.evaluation.suite_files import find_suite
from llm_pipeline.prompts import find_file
from llm_pipeline.store import file_hash

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """One call of the verb."""

    model: str
    suites: tuple[str, ...]
    limit: int | None = None
    prompt: str = "answer"
    model_name: str | None = None
    key: str | None = None
    include_path: Path | None = None
    chat: bool = False


def run(request: Request, out: Path, say: Say) -> dict[str, Any]:
    """Write rows.jsonl, report.json and report.html into `out` and return the report; every suite is read before any is asked."""
    started = time.monotonic()
    own = [find_suite(name).sample(request.limit) for name in request.suites if not name.startswith(PREFIX)]
    prompt = find_file(request.prompt)
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    if own:
        responder = open_responder(request.model, name=request.model_name, key=request.key)
        rows, parts = evaluate_suites(responder, own, prompt.prompt, say)
    for name in request.suites:
        if name.startswith(PREFIX):
            say(f"{name}: running")
            its_rows, its_parts = _benchmark(request, name.removeprefix(PREFIX))
            rows, parts = rows + its_rows, parts + its_parts
    facts = {
        "model": request.model,
        "version": None if is_url(request.model) else file_hash(Path(request.model)),
        "prompt": f"{prompt.name} {prompt.prompt.id}",
        "limit": request.limit,
        "seconds": round(time.monotonic() - started, 1),
    }
    say(f"{len(rows)} scores in {facts['seconds']} s")
    return write_evaluation(out, rows, parts, "Evaluation", facts)


def _benchmark(request: Request, task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    model = Endpoint(request.model, request.model_name, request.key) if is_url(request.model) else Path(request.model)
    return run_task(task, model, include_path=request.include_path, limit=request.limit, chat=request.chat)
