"""`llm-pipeline guard`: the input policy over a file of prompts, and the training of the offline detector."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.errors import InputError
from llm_pipeline.shell import JsonOption, show

_EVERY = 2000


def register(app: typer.Typer) -> None:
    app.command()(guard)


def guard(
    source: Annotated[Path | None, typer.Argument(metavar="IN.jsonl", help="Rows of id and text.")] = None,
    out: Annotated[Path | None, typer.Argument(metavar="OUT.parquet", help="Rows of id, score, action and rules.")] = None,
    policy: Annotated[Path | None, typer.Option(help="A policy file; default data/policies/guardrails.yaml.")] = None,
    retrieved: Annotated[bool, typer.Option("--retrieved", help="The texts are retrieved passages, not what a user says.")] = False,
    train: Annotated[Path | None, typer.Option(help="Train the offline detector into this folder first, and judge with it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the guardrails before the model over a file; a score from 0.5 on is an attack.

    Examples: llm-pipeline guard prompts.jsonl verdicts.parquet --json / llm-pipeline guard --train data/models/guard
    """
    if (source is None) != (out is None) or (source is None and train is None):
        raise typer.BadParameter("expected IN.jsonl and OUT.parquet, or --train FOLDER")
    result: dict[str, Any] = {}
    if train is not None:
        from llm_pipeline.serving.guardrails.train import train_detector

        about = train_detector(train, say=lambda text: typer.echo(text, err=True))
        result |= {"detector": str(train / "guard.npz"), "heads": about["heads"]}
    if source is not None and out is not None:
        result |= judge(source, out, policy, retrieved=retrieved, detector=train)
    show(result, as_json)


def judge(source: Path, out: Path, policy: Path | None, *, retrieved: bool = False, detector: Path | None = None) -> Mapping[str, Any]:
    """Write the verdicts of a file's rows and return how many rows there were, what was done and which rules fired."""
    import pyarrow as pa
    from pyarrow import parquet

    from llm_pipeline.serving.guardrails import Guards, load_policy
    from llm_pipeline.serving.guardrails.detector import load_detector
    from llm_pipeline.serving.traffic.release import POLICY

    guards = Guards(load_policy(policy or POLICY), load_detector(detector) if detector else None)
    rows: list[dict[str, Any]] = []
    seconds = []
    for identity, text in read_rows(source):
        began = time.perf_counter()
        verdict = guards.check((), [text]) if retrieved else guards.check([{"role": "user", "content": text}])
        seconds.append(time.perf_counter() - began)
        rows.append({"id": identity, "score": verdict.score, "action": verdict.action, "rules": list(verdict.rules)})
        if len(rows) % _EVERY == 0:
            typer.echo(f"{len(rows)} rows", err=True)
    columns: dict[str, pa.DataType] = {"id": pa.string(), "score": pa.float64(), "action": pa.string(), "rules": pa.list_(pa.string())}
    temporary = out.with_name(f".{out.name}.part")
    parquet.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), temporary)
    temporary.replace(out)
    return {
        "rows": len(rows),
        "actions": _counts(row["action"] for row in rows),
        "rules": _counts(r for row in rows for r in row["rules"]),
    } | ({"median_ms": round(sorted(seconds)[len(seconds) // 2] * 1e3, 3)} if seconds else {})


def read_rows(source: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each row of a JSONL file."""
    from llm_pipeline.store import read_jsonl

    try:
        rows = read_jsonl(source)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("id"), str | int):
            received = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise InputError(f'{source}:{number}: expected {{"id": ..., "text": "..."}}, received {received}')
        yield str(row["id"]), row["text"]


def _counts(values: Iterator[str]) -> dict[str, int]:
    from collections import Counter

    return dict(sorted(Counter(values).items()))
