"""`llm-pipeline evaluate` and `llm-pipeline suites`: any model through suites that are data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.shell import JsonOption, show


def register(app: typer.Typer) -> None:
    app.command()(evaluate)
    app.command()(suites)


def evaluate(
    model: Annotated[str, typer.Option(help="Folder of a model, or the URL of an OpenAI-compatible server.")],
    suite: Annotated[list[str], typer.Option(help="Name (`llm-pipeline suites`), file (yaml or jsonl) or lm_eval:TASK; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for rows.jsonl, report.json and report.html.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows per suite; always the same ones.")] = None,
    prompt: Annotated[str, typer.Option(help="Prompt around the questions: a name of data/prompts or a file.")] = "answer",
    model_name: Annotated[str | None, typer.Option(help="Model to ask a server for; default: the first that it lists.")] = None,
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the server's key.")] = "OPENAI_API_KEY",
    include_path: Annotated[Path | None, typer.Option(help="Folder with lm_eval tasks of your own.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put lm_eval's questions into the model's chat template.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a model the questions of suites, score the answers, and write rows, figures with intervals, and a page.

    The rows of two models are what `llm-pipeline gate A/rows.jsonl B/rows.jsonl` compares.

    Examples: llm-pipeline evaluate --model data/models/tiny_base --suite reading --out /tmp/base /
    llm-pipeline evaluate --model http://127.0.0.1:8000 --suite injection --suite lm_eval:gsm8k --limit 50 --out /tmp/served
    """
    from llm_pipeline.evaluation.cli_run import Request, run

    request = Request(model, tuple(suite), limit, prompt, model_name, os.environ.get(key_env) or None, include_path, chat)
    report = run(request, out, lambda line: typer.echo(line, err=True))
    show({"report": str(out / "report.html")} | report if as_json else _lines(report, out), as_json)


def suites(as_json: JsonOption = False) -> None:
    """The shipped suites and what each measures. Example: llm-pipeline suites --json"""
    from llm_pipeline.evaluation.suite_files import find_suite, suite_names

    found = [find_suite(name) for name in suite_names()]
    if as_json:
        columns = {s.name: {"id": s.id, "kind": s.spec.kind, "rows": len(s.rows), "metrics": list(s.spec.metrics)} for s in found}
        show({name: {**column, "description": s.spec.description} for (name, column), s in zip(columns.items(), found, strict=True)}, True)
        return
    for kind in dict.fromkeys(s.spec.kind for s in found):
        typer.echo(f"{kind}:")
        for s in [s for s in found if s.spec.kind == kind]:
            typer.echo(f"  {s.name:<13} {len(s.rows):>4} rows  {', '.join(s.spec.metrics)}\n      {s.spec.description}")


def _lines(report: dict[str, Any], out: Path) -> dict[str, Any]:
    lines = {}
    for suite in report["suites"]:
        for f in suite["figures"]:
            spread = f" [{f['low']:.3f}, {f['high']:.3f}], n {f['n']}" if f["mean"] is not None and f["mean"] == f["value"] else ""
            what = spread or f" {f.get('what', 'over all')}"
            lines[f"{suite['suite']} {f['metric']}"] = f"{f['value']:.4g}{what}" if f["value"] is not None else "no value"
        lines |= {f"{suite['suite']} {name}": f"skipped: {why}" for name, why in suite["skipped"].items()}
        lines |= {f"{suite['suite']} {t['metric']} limit": _limit(t) for t in suite["thresholds"] if not t["holds"]}
    return lines | {"report": str(out / "report.html")}


def _limit(threshold: dict[str, Any]) -> str:
    bounds = [f"{name.replace('_', ' ')} {bound:g}" for name, bound in threshold["limit"].items() if bound is not None]
    return f"{threshold['value']:.3f} received, {' and '.join(bounds)} expected"
