"""int8 weights against float32 in our worker, on a tuned model and the questions it was judged by: exact match, equal answers, speed.

Takes an evaluation's answers (`model_answers/<id>/answers.jsonl` in a home's artifacts), so both are asked with the passages of that run.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.evaluation.compare import mean_interval
from llm_pipeline.evaluation.metrics import exact_match
from llm_pipeline.prompts import FOLDER, load_prompt
from llm_pipeline_tests.benchmarks.bench_engine import cpu_seconds
from llm_pipeline_tests.serving.engines import running_engine

CLIENTS = 8


@dataclass(frozen=True)
class Run:
    """What one engine said, with its tokens per second and its CPU milliseconds per token, batch by batch."""

    texts: list[str]
    rates: list[float]
    costs: list[float]


async def _ask(session: aiohttp.ClientSession, url: str, messages: list[dict[str, str]]) -> tuple[str, int]:
    body = {"model": "default", "messages": messages, "max_tokens": 40, "temperature": 0}
    async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
        found = await reply.json()
        return found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"]


async def _batch(url: str, asked: list[list[dict[str, str]]]) -> list[tuple[str, int]]:
    places = asyncio.Semaphore(CLIENTS)

    async def one(session: aiohttp.ClientSession, messages: list[dict[str, str]]) -> tuple[str, int]:
        async with places:
            return await _ask(session, url, messages)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        return list(await asyncio.gather(*(one(session, messages) for messages in asked)))


def _measure(run: Run, url: str, asked: list[list[dict[str, str]]]) -> None:
    begun, used = time.perf_counter(), cpu_seconds(url)
    found = asyncio.run(_batch(url, asked))
    made = sum(tokens for _, tokens in found)
    run.rates.append(made / (time.perf_counter() - begun))
    run.costs.append((cpu_seconds(url) - used) * 1e3 / made)
    run.texts.extend(text for text, _ in found)


def main(model: Path, answers: Path, batch: int = 50, threads: int = 1) -> None:
    rows: list[dict[str, Any]] = [json.loads(line) for line in answers.read_text().splitlines()]
    random.Random(0).shuffle(rows)
    references = [str(row["reference"]) for row in rows]
    prompt = load_prompt(FOLDER / "answer.yaml")
    asked = [prompt.messages([{"role": "user", "content": row["question"]}], [p["text"] for p in row["passages"]]) for row in rows]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        urls = {
            kind: stack.enter_context(running_engine(model, Path(name) / kind, f"--threads={threads}", f"--quantization={kind}"))
            for kind in ("none", "int8")
        }
        runs = {kind: Run([], [], []) for kind in urls}
        for start in range(0, len(asked), batch):
            for kind, url in urls.items():
                _measure(runs[kind], url, asked[start : start + batch])
    title = f"{len(rows)} questions, {CLIENTS} clients, {threads} threads"
    table = Table("weights", "exact match (95%)", "tokens/s", "CPU ms/token", title=title)
    right = {kind: [float(exact_match(*pair)) for pair in zip(run.texts, references, strict=True)] for kind, run in runs.items()}
    for kind, run in runs.items():
        mean = mean_interval(right[kind])
        table.add_row(
            {"none": "float32"}.get(kind, kind), f"{mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f})",
            f"{median(run.rates):.0f}", f"{median(run.costs):.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    paired = mean_interval(list(np.subtract(right["int8"], right["none"])))
    equal = np.mean([a == b for a, b in zip(runs["none"].texts, runs["int8"].texts, strict=True)])
    faster = median(a / b for a, b in zip(runs["int8"].rates, runs["none"].rates, strict=True))
    cheaper = median(a / b for a, b in zip(runs["none"].costs, runs["int8"].costs, strict=True))
    print(f"int8 less float32: {paired.mean:+.4f} ({paired.low:+.4f} to {paired.high:+.4f}); equal answers {equal:.1%}")
    print(f"tokens/s {faster:.2f} times, CPU per token {cheaper:.2f} times less (medians of alternating batches)")


if __name__ == "__main__":
    typer.run(main)
