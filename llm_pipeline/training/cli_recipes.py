"""`llm-pipeline train` and `llm-pipeline recipes`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.errors import ConfigError, near
from llm_pipeline.shell import JsonOption, show


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(recipes)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe by name (`llm-pipeline recipes` lists them), or a YAML file.")],
    data: Annotated[Path, typer.Option(help="Training rows, JSON lines; which keys a row needs depends on the method.")],
    out: Annotated[Path, typer.Option(help="Folder of the result; the same command goes on with a stopped run in it.")],
    validation: Annotated[Path | None, typer.Option(help="Held-out rows of the same form.")] = None,
    base: Annotated[str | None, typer.Option(help="What it starts from: shipped, a model folder, or a hub id.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, any field of the recipe.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train one model from one file. Leaves OUT/model (or OUT/adapter for virtual tokens), training.json and curve.png.

    Rows: sft and distill {messages}, pretrain {text}, dpo and reward {prompt, chosen, rejected}, kto {prompt, completion, label}.

    Examples: llm-pipeline train tiny_cpu --data train.jsonl --out /tmp/tuned /
    llm-pipeline train dpo --data pairs.jsonl --base /tmp/tuned/model --out /tmp/aligned --set preference.beta=0.2
    """
    from llm_pipeline.training.plain import train_file
    from llm_pipeline.training.recipe import load_recipe

    chosen = load_recipe(recipe, [*([f"base={base}"] if base else []), *(overrides or [])])
    with Progress() as progress, contextlib.redirect_stdout(sys.stderr):  # libraries print; standard output is the result alone
        result = train_file(chosen, data, validation, out, progress)
    show(result, as_json)


def recipes(
    name: Annotated[str | None, typer.Argument(help="One recipe, with every setting.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What can be trained, and how. Examples: llm-pipeline recipes / llm-pipeline recipes dpo / llm-pipeline recipes --json"""
    from llm_pipeline.training.recipe import catalogue
    from llm_pipeline.training.rows import COLUMNS

    known = catalogue()
    if name is not None and name not in known:
        raise ConfigError(f"unknown recipe {name!r}{near(name, known)}")
    if name is not None:
        show(asdict(known[name]) | {"rows": list(COLUMNS[known[name].method])}, as_json)
        return
    rows = [
        {"name": key, **{field: getattr(recipe, field) for field in ("method", "adapter", "base", "device", "description")}}
        for key, recipe in known.items()
    ]
    typer.echo(json.dumps(rows)) if as_json else _table(rows)


def _table(rows: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, no_wrap=column != "description")
    for row in rows:
        table.add_row(*row.values())
    Console(width=None if sys.stdout.isatty() else 140).print(table)


class Progress:
    """Loss, tokens per second and time left on stderr: a moving bar on a terminal, else a line per report."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, message: Mapping[str, Any]) -> None:
        if message.get("event") != "progress":
            if self._bar is None:
                typer.echo(" ".join(f"{key} {_short(value)}" for key, value in message.items() if key != "event" or value), err=True)
            return
        left = int(message["eta_seconds"])
        words = f"loss {message['loss']:.4f}  {message['tokens_per_second']:,.0f} tokens/s  {left // 60}:{left % 60:02d} left"
        if self._bar is None:
            typer.echo(f"step {message['step']}/{message['steps']}  {words}", err=True)
        else:
            self._bar.update(self._task, completed=message["step"], total=message["steps"], description=words)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
