"""`llm-pipeline estimate`, `reproduce` and `lineage`: what a run will need, whether it can be had again, and what belongs to it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_pipeline.shell import HomeOption, JsonOption, open_home, show


def register(app: typer.Typer) -> None:
    for verb in (estimate, reproduce, lineage):
        app.command()(verb)


def estimate(
    recipe: Annotated[str, typer.Argument(help="A name in llm_pipeline/recipes, or a file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, any field of the recipe.")] = None,
    machines: Annotated[int, typer.Option(min=1, help="Machines, each with the recipe's processes.")] = 1,
    memory: Annotated[float | None, typer.Option(help="Gigabytes of each device (default: what is free here now).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Memory of each process, in MB, before a run: weights, gradients, optimiser, activations, logits. Exit code 1 when it can't fit.

    Examples: llm-pipeline estimate tiny_cpu / llm-pipeline estimate tiny_cpu --set processes=4 --set device=cuda --memory 80 --json
    """
    from llm_pipeline.training import memory as sizes
    from llm_pipeline.training.recipe import load_recipe

    chosen = load_recipe(recipe, overrides or ())
    need = sizes.estimate(chosen, sizes.shape_for(chosen), chosen.processes * machines, sizes.teacher_of(chosen))
    free = round(memory * 1e9) if memory is not None else sizes.free_memory(chosen.device)
    sharing = chosen.processes if chosen.device == "cpu" else 1
    fits = None if free is None else need.total * sharing <= free
    result: dict[str, Any] = {
        "device": chosen.device,
        "processes": chosen.processes * machines,
        "megabytes_per_process": need.megabytes(),
        "needed_megabytes": round(need.total * sharing / 1e6),
        "free_megabytes": None if free is None else round(free / 1e6),
        "fits": fits,
    }
    show(result, as_json)
    if fits is False:
        typer.echo(sizes.shortage(chosen, need, need.total * sharing, free or 0), err=True)
        raise typer.Exit(1)


def reproduce(
    run_id: Annotated[str, typer.Argument(help="An MLflow run id, or the id of a checkpoint artefact.")],
    out: Annotated[Path | None, typer.Option(help="Folder to train in, kept afterwards; default: a temporary one.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recorded run again and report the difference: weights bit by bit, the loss curve, and what changed around it.

    Example: llm-pipeline reproduce 3f2a9c01d4e5b687 --json
    """
    from llm_pipeline.training.reproduce import reproduce as again

    def tell(message: Any) -> None:
        if message.get("event") == "progress":
            typer.echo(f"step {message['step']}/{message['steps']}  loss {message['loss']:.4g}", err=True)

    with tempfile.TemporaryDirectory(prefix="llm_pipeline_reproduce_") as temporary:
        show(again(open_home(home), run_id, out or Path(temporary), tell), as_json)


def lineage(
    of: Annotated[str, typer.Argument(help="A version of data, a run id, or a number or alias (champion) of the registered model.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What belongs together in MLflow: the data a model was trained on, and the runs and models that some data went into.

    Example: llm-pipeline lineage champion
    """
    from llm_pipeline.training.tracking import lineage as related

    show(related(open_home(home).mlflow_uri, of), as_json)
