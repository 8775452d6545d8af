"""Prompts and explanations without Dagster: `llm-pipeline prompts list|show|test|compare|select|register` and `explain`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.explain.cli import explain
from llm_pipeline.paths import DATA
from llm_pipeline.shell import HomeOption, JsonOption, open_home, show

Name = Annotated[str, typer.Argument(help="A prompt of data/prompts by name, or a YAML file.", metavar="PROMPT")]
Model = Annotated[Path, typer.Option(help="Folder of a model.")]
Suite = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSONL of id, question, answer and perhaps passages or context.")]
Out = Annotated[Path, typer.Option(help="Folder for report.json and report.html.")]
Tokens = Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")]

prompts = typer.Typer(no_args_is_help=True, help="Prompts as code: show, test, compare, select and register them.")


@prompts.command("list")
def list_prompts(as_json: JsonOption = False) -> None:
    """The prompts of data/prompts with their hashes. Example: llm-pipeline prompts list"""
    from llm_pipeline.prompts import FOLDER, load_file

    files = [load_file(path) for path in sorted(FOLDER.glob("*.yaml"))]
    if as_json:
        typer.echo(json.dumps([{"name": file.name, "id": file.prompt.id, "tests": len(file.tests)} for file in files]))
        return
    show({file.name: f"{file.prompt.id}  {len(file.tests)} tests  {file.description}" for file in files}, False)


@prompts.command("show")
def show_prompt(
    name: Name,
    question: Annotated[str, typer.Option(help="The question to show it with.")] = "{question}",
    context: Annotated[list[str] | None, typer.Option(help="A passage; may be given several times.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a model sees: the messages of a prompt. Example: llm-pipeline prompts show answer --question "Fees?" --context "It is $5." """
    from llm_pipeline.prompts import find_file

    file = find_file(name)
    messages = file.prompt.messages([{"role": "user", "content": question}], context or ["{passages}"])
    if as_json:
        typer.echo(json.dumps({"name": file.name, "id": file.prompt.id, "content": file.prompt.content, "messages": messages}))
        return
    typer.echo(f"{file.name} {file.prompt.id}\n" + "\n".join(f"[{m['role']}]\n{m['content']}" for m in messages))


@prompts.command("test")
def run_tests(
    names: Annotated[list[str] | None, typer.Argument(help="Prompts by name or file; all shipped ones without any.")] = None,
    model: Annotated[Path, typer.Option(help="Whose tokens bound a prompt's length.")] = DATA / "models" / "tiny_base",
    as_json: JsonOption = False,
) -> None:
    """Run the tests that prompt files carry; exit 1 when one fails. Example: llm-pipeline prompts test answer"""
    from llm_pipeline.evaluation.prompt_tests import failures, token_count
    from llm_pipeline.prompts import FOLDER, find_file, load_file

    files = [find_file(name) for name in names] if names else [load_file(path) for path in sorted(FOLDER.glob("*.yaml"))]
    count = token_count(model)
    failed = [line for file in files for line in failures(file, count)]
    show({"prompts": len(files), "tests": sum(len(file.tests) for file in files), "failed": failed}, as_json)
    if failed:
        raise typer.Exit(1)


@prompts.command("compare")
def compare_prompts(
    before: Name, after: Name, model: Model, suite: Suite, out: Out, max_new_tokens: Tokens = 40, as_json: JsonOption = False
) -> None:
    """Answer the same questions with two prompts: paired differences with 90% intervals, and the answers that change.

    Example: llm-pipeline prompts compare answer answer_few_shot --model data/models/tiny_base --suite facts.jsonl --out /tmp/change
    """
    from llm_pipeline.evaluation.prompt_compare import read_cases
    from llm_pipeline.evaluation.prompt_report import compare_files
    from llm_pipeline.prompts import find_file

    found = compare_files(find_file(before), find_file(after), model, read_cases(suite), out, max_new_tokens=max_new_tokens)
    short = {key: found[key] for key in ("n", "verdict", "won", "lost")} | {"changed": len(found["changed"])}
    show(
        short | {"metrics": found["metrics"]} if as_json else short | _lines(found["metrics"]) | {"page": str(out / "report.html")}, as_json
    )


@prompts.command("select")
def select_prompt(
    names: Annotated[list[str], typer.Argument(help="Prompts by name or file; the first is what the choice is compared with.")],
    model: Model,
    suite: Suite,
    out: Out,
    shots: Annotated[list[int] | None, typer.Option(help="Number of examples to try; may be given several times; default 2.")] = None,
    seed: int = 0,
    max_new_tokens: Tokens = 40,
    as_json: JsonOption = False,
) -> None:
    """Choose prompt and examples on a part of a suite, and say what the choice is worth on another part; writes prompt.yaml.

    Example: llm-pipeline prompts select answer answer_few_shot --model data/models/tiny_base --suite facts.jsonl --out /tmp/best
    """
    from llm_pipeline.evaluation.generate import Generator
    from llm_pipeline.evaluation.prompt_compare import read_cases
    from llm_pipeline.evaluation.prompt_page import selection_page
    from llm_pipeline.evaluation.prompt_select import Selection, as_yaml, select
    from llm_pipeline.prompts import find_file
    from llm_pipeline.retrieval.embedding import Embedder
    from llm_pipeline.store import write_atomically

    settings = Selection(max_new_tokens=max_new_tokens, seed=seed)
    settings = replace(settings, shots=tuple(shots)) if shots else settings
    if min(settings.shots) < 1:
        raise InputError(f"--shots: received {min(settings.shots)}, expected 1 or more")
    files = {file.name: file.prompt for file in map(find_file, names)}
    if len(files) < len(names):
        raise InputError(f"received the prompts {', '.join(names)}, expected different names")
    say = lambda line: typer.echo(line, err=True)  # noqa: E731
    best, report = select(Generator(model), files, read_cases(suite), Embedder().embed, settings, say)
    report |= {"model": str(model)}
    write_atomically(out / "prompt.yaml", as_yaml(best, f"Selected: {report['chosen']['name']}."))
    write_atomically(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    write_atomically(out / "report.html", selection_page(report))
    short = {key: report[key] for key in ("splits", "chosen", "baseline")} | {"held out": report["held_out"]["verdict"]}
    show(report if as_json else short | {"prompt": str(out / "prompt.yaml"), "page": str(out / "report.html")}, as_json)


@prompts.command("register")
def register_prompts(
    names: Annotated[list[str] | None, typer.Argument(help="Prompts by name or file; all shipped ones without any.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put prompts into MLflow's registry, one version per hash; the one that answers customers gets the alias `production`.

    Example: llm-pipeline prompts register answer
    """
    from llm_pipeline.evaluation.prompt_registry import register as put
    from llm_pipeline.evaluation.prompt_report import setting
    from llm_pipeline.prompts import FOLDER, find_file, load_file

    files = [find_file(name) for name in names] if names else [load_file(path) for path in sorted(FOLDER.glob("*.yaml"))]
    place = open_home(home)
    now = setting(place)
    live = now.before.id if now.before and now.live else None
    versions = {file.name: put(place.mlflow_uri, file.name, file.prompt, production=file.prompt.id == live) for file in files}
    show({file.name: {"id": file.prompt.id, "version": versions[file.name]} for file in files}, as_json)


def _lines(metrics: dict[str, Any]) -> dict[str, str]:
    def line(metric: dict[str, Any]) -> str:
        gap = metric["difference"]
        return f"{metric['before']:.3f} -> {metric['after']:.3f}, difference {gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"

    return {name: line(metric) for name, metric in metrics.items()}


def register(app: typer.Typer) -> None:
    """Add these verbs to the project's command line."""
    app.add_typer(prompts, name="prompts")
    app.command()(explain)
