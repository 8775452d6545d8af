"""`llm-pipeline search` and `llm-pipeline quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.errors import InputError
from llm_pipeline.shell import JsonOption, show


def register(app: typer.Typer) -> None:
    app.command()(search)
    app.command()(quantize)


def search(
    space: Annotated[str, typer.Argument(help="A search space: a YAML file, or the name of a shipped one (tiny).")],
    data: Annotated[Path, typer.Option(help="Training rows (JSON lines).")],
    out: Annotated[Path, typer.Option(help="Folder of the search; the same command goes on with what is there.")],
    recipe: Annotated[str, typer.Option(help="The recipe that is varied: a name in llm_pipeline/recipes, or a file.")] = "tiny_cpu",
    validation: Annotated[Path | None, typer.Option(help="Rows that trials are judged on; default: validation.jsonl beside DATA.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 20,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, any field of the recipe.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Search hyperparameters: real trainings, judged while they run, hopeless ones stopped. Killed? The same command goes on.

    Writes OUT/best.yaml, a recipe for `train` and for the asset sft_checkpoint; several processes may work on one OUT.

    Example: llm-pipeline search tiny --data train.jsonl --trials 12 --out /tmp/search --set max_steps=100
    """
    from llm_pipeline.training.bases import base_folder
    from llm_pipeline.training.recipe import load_recipe
    from llm_pipeline.training.search import Search, by_training
    from llm_pipeline.training.search_report import history, importance, leaderboard, parallel_coordinates, write_best
    from llm_pipeline.training.search_space import load_space

    held_out = validation or data.with_name("validation.jsonl")
    for path in (data, held_out):
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected JSON lines to train on (--data) and to judge trials by (--validation)")
    chosen = tuple(overrides or ())
    base = base_folder(load_recipe(recipe, chosen))
    if base is None:
        raise InputError(f"recipe {recipe}: its base is not on this machine; expected a model folder, or `--set base=shipped`")
    found = Search(
        load_space(space), recipe, chosen, by_training(data, held_out, base), out, trials, lambda line: typer.echo(line, err=True)
    )
    found.run()
    write_best(found, out / "best.yaml")
    history(found.study).savefig(out / "history.png", dpi=100, bbox_inches="tight")
    parallel_coordinates(found).savefig(out / "parameters.png", dpi=100, bbox_inches="tight")
    board = leaderboard(found.study)
    result: dict[str, Any] = {
        "best": {name: board[0][name] for name in found.space.parameters},
        "validation_loss": board[0]["validation_loss"],
        "trials": len(board),
        "given_up": sum(row["state"] == "pruned" for row in board),
        "failed": sum(row["state"] == "fail" for row in board),
        "importance": importance(found.study),
        "recipe": str(out / "best.yaml"),
    }
    if as_json:
        result["leaderboard"] = board
    show(result, as_json)


def quantize(
    model: Annotated[Path, typer.Argument(help="A model folder (config.json, safetensors, tokenizer).")],
    out: Annotated[Path, typer.Option(help="Folder of the quantised model; an earlier one is replaced.")],
    bits: Annotated[int, typer.Option(help="8 (LLM.int8) or 4 (NormalFloat).")] = 8,
    data: Annotated[Path | None, typer.Option(help="Questions to compare both models on: rows {question, answer} or {messages}.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model smaller after training, and measure what that costs and saves on this machine: size, speed, quality.

    Example: llm-pipeline quantize .llm_pipeline/artifacts/candidate_model/ID/model --bits 4 --out /tmp/small --data suite.jsonl
    """
    from llm_pipeline.training.quantize import replace_folder
    from llm_pipeline.training.quantize_report import compare_models, read_questions

    if bits not in (4, 8):
        raise typer.BadParameter(f"--bits: received {bits}, expected 8 or 4")
    questions = read_questions(data) if data else []
    replace_folder(model, out, 4 if bits == 4 else 8)
    before, after = compare_models({"before": model, f"int{bits}": out}, questions, lambda line: typer.echo(line, err=True))
    if as_json:
        return show({"model": str(out), "before": before.json(), "after": after.json()}, as_json)
    old, new = before.row(), after.row()
    words = {key: f"{old[key]} -> {new[key]}" if old[key] is not None else new[key] for key in new if new[key] is not None}
    show({"model": str(out), **words}, as_json)
