"""`llm-pipeline`: the verbs of the Makefile, and the stages without Dagster. Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from llm_pipeline.curation import cli as cli_curation
from llm_pipeline.errors import PipelineError, StoppedError
from llm_pipeline.evaluation import cli_gate, cli_judge, cli_prompts, cli_suites
from llm_pipeline.paths import PROJECT
from llm_pipeline.retrieval import cli as cli_retrieval
from llm_pipeline.serving.cli import app as endpoint_cli
from llm_pipeline.serving.gateway import standalone_cli
from llm_pipeline.serving.guardrails import cli as cli_guard
from llm_pipeline.shell import HomeOption, JsonOption, open_home
from llm_pipeline.training import cli_recipes, cli_runs, cli_search

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
app.add_typer(endpoint_cli, name="endpoint")
for stage in (
    cli_curation,
    cli_recipes,
    cli_runs,
    cli_search,
    cli_suites,
    cli_gate,
    cli_judge,
    cli_prompts,
    cli_retrieval,
    standalone_cli,
    cli_guard,
):
    stage.register(app)


@app.command()
def demo(
    source: Annotated[
        str | None, typer.Option(help="Your documents: folder, file or URI; txt, md, html, pdf, jsonl, csv, parquet.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another fictional bank: its products, facts and texts.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The whole life cycle on this machine, offline: raw text to a served, monitored model and back to a retrain.

    Examples: llm-pipeline demo / llm-pipeline demo --source ~/documents / llm-pipeline demo --seed 23 --home /tmp/other
    """
    from llm_pipeline.demo.run import run_demo

    run_demo(open_home(home).root, source, seed=seed, as_json=as_json)


@app.command()
def pretrain(
    recipe: Annotated[Path, typer.Argument(help="A base recipe, such as llm_pipeline/recipes/tiny_base.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder of the model; checkpoints go to a folder beside it.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, any field of the recipe.")] = None,
) -> None:
    """Pretrain a base model from nothing, resuming from its last checkpoint, and write it with its model card.

    Example: llm-pipeline pretrain llm_pipeline/recipes/tiny_base.yaml --out /tmp/base --set steps=200
    """
    from llm_pipeline.config import load
    from llm_pipeline.curation.python_docs import doc_strings
    from llm_pipeline.training.base import BaseRecipe, train_base
    from llm_pipeline.training.base_card import publish_base

    settings = load(BaseRecipe, recipe, overrides or ())
    work = out.with_name(out.name + ".work")
    trainer = train_base(settings, [doc.text for doc in doc_strings()], work, resume=any(work.glob("checkpoint-*")))
    figures = publish_base(work / f"checkpoint-{trainer.state.global_step}", out, settings)
    for context, accuracy in figures["reading"].items():
        typer.echo(f"{accuracy:.2f}  {context}")


@app.command()
def ui(port: int = 3000, home: HomeOption = None) -> None:
    """The Dagster UI and daemon on the home folder (http://127.0.0.1:3000)."""
    from llm_pipeline.defs.drive import instance_folder
    from llm_pipeline.store import Home

    root = open_home(home).root
    environment = os.environ | {"DAGSTER_HOME": str(instance_folder(Home(root))), "LLM_PIPELINE_HOME": str(root)}
    _become(["dagster", "dev", "-w", str(PROJECT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)], environment)


@app.command()
def mlflow(port: int = 5000, home: HomeOption = None) -> None:
    """The MLflow UI on the home folder's runs and models (http://127.0.0.1:5000)."""
    uri = open_home(home).mlflow_uri
    _become(["mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)], dict(os.environ))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """The test suite, a file at a time in two processes; further arguments go to pytest. Example: llm-pipeline test -m 'not slow'"""
    together = ["-n", str(min(2, os.cpu_count() or 1)), "--dist", "loadfile"]
    raise typer.Exit(_run([sys.executable, "-m", "pytest", str(PROJECT / "llm_pipeline_tests"), *together, *context.args]))


@app.command()
def lint() -> None:
    """ruff (style, layering) and mypy."""
    folders = ["llm_pipeline", "llm_pipeline_tests"]
    commands = (["ruff", "check", *folders], ["ruff", "format", "--check", *folders], ["mypy"])
    raise typer.Exit(max(_run([sys.executable, "-m", *command]) for command in commands))


@app.command()
def bench(names: Annotated[list[str] | None, typer.Argument(help="Benchmarks to run; all without any.")] = None) -> None:
    """The benchmarks behind the README's tables. Example: llm-pipeline bench curation"""
    found = {path.stem.removeprefix("bench_"): path for path in sorted((PROJECT / "llm_pipeline_tests/benchmarks").glob("bench_*.py"))}
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise typer.BadParameter(f"unknown benchmark {unknown[0]!r}; there are {', '.join(found)}")
    raise typer.Exit(max(_run([sys.executable, str(found[name])]) for name in names or found))


@app.command()
def clean(home: HomeOption = None) -> None:
    """End the endpoint and remove the home folder."""
    from llm_pipeline.serving.supervision.client import down

    place = open_home(home)
    down(place)
    shutil.rmtree(place.root, ignore_errors=True)


def _run(command: list[str]) -> int:
    return subprocess.run(command, cwd=PROJECT, check=False).returncode


def _become(command: list[str], environment: dict[str, str]) -> None:
    """Replace this process by a tool of the environment; SIGINT works in it also when a script started us in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.execve(Path(sys.executable).parent / command[0], command, environment)


def main() -> None:
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(130 if isinstance(error, StoppedError) else 1)
