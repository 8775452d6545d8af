"""Hyperparameter search as an asset: one op per trial, so that the pool `training` decides how many run at once."""

import json
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from llm_pipeline.defs.plots import figure
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.tables import records
from llm_pipeline.store import Home, content_hash, write_atomically
from llm_pipeline.training.interrupt import signal_on_parent_death


class SearchConfig(dg.Config):
    """What is varied and how often: a search space, the recipe around it, and the number of trials in all."""

    space: str = "tiny"
    recipe: str = "tiny_cpu"
    overrides: list[str] = Field(default_factory=list)
    trials: int = 12


def _search(place: Home, plan: dict[str, Any], say: Any) -> Any:
    """The search that a plan describes; its folder is decided by what it searches, so that more trials go on where fewer ended."""
    from llm_pipeline.training.search import Search, by_training
    from llm_pipeline.training.search_space import load_space

    dataset, base = place.artifacts.get("sft_dataset", plan["sft_dataset"]), place.artifacts.get("base_model", plan["base_model"])
    objective = by_training(dataset.file("train.jsonl"), dataset.file("validation.jsonl"), base.file("model"))
    out = place.root / "searches" / content_hash({key: value for key, value in plan.items() if key != "trials"})
    return Search(load_space(plan["space"]), plan["recipe"], tuple(plan["overrides"]), objective, out, plan["trials"], say)


@dg.op(ins={"sft_dataset": dg.In(dg.Nothing), "base_model": dg.In(dg.Nothing)}, out=dg.DynamicOut(dict))
def plan_trials(config: SearchConfig, home: HomeResource) -> Iterator[dg.DynamicOutput[dict[str, Any]]]:
    """As many trials as are wanted; the space is checked against the recipe before the first starts."""
    from llm_pipeline.training.recipe import load_recipe
    from llm_pipeline.training.search_space import check_space, load_space

    place, overrides = home.open(), tuple(config.overrides)
    space = load_space(config.space)
    check_space(space, config.recipe, overrides)
    plan = {
        **config.model_dump(),
        "sft_dataset": place.artifacts.named("sft_dataset").id,
        "base_model": place.artifacts.named("base_model").id,
        "content": content_hash(repr(space), load_recipe(config.recipe, overrides).inputs()),
    }
    for number in range(config.trials):
        yield dg.DynamicOutput(plan, mapping_key=f"{number:03}")


@dg.op(pool="training")
def run_trial(context: dg.OpExecutionContext, plan: dict[str, Any], home: HomeResource) -> dict[str, Any]:
    """The next trial of the search, whichever it is; none when an earlier run has done them all."""
    if multiprocessing.parent_process() is not None:
        signal_on_parent_death(signal.SIGINT)  # a step process killed with its run worker takes the trainer along
    _search(home.open(), plan, context.log.info).run_one()
    return plan


@dg.op(out=dg.Out(dg.Nothing))
def conclude_search(context: dg.OpExecutionContext, plans: list[dict[str, Any]], home: HomeResource) -> dg.Output[None]:
    """The best recipe as an artefact, once every trial is over."""
    from llm_pipeline.training.search_report import (
        best_overrides,
        history,
        importance,
        importance_figure,
        leaderboard,
        parallel_coordinates,
        write_best,
    )

    place, plan = home.open(), plans[0]
    search = _search(place, plan, context.log.info)
    search.run()  # trials whose process died wait to be repeated
    board, shares = leaderboard(search.study), importance(search.study)

    def make(folder: Any) -> dict[str, Any]:
        write_best(search, folder / "best.yaml")
        write_atomically(folder / "leaderboard.json", json.dumps({"trials": board, "importance": shares}, indent=1))
        write_atomically(folder / "overrides.json", json.dumps(best_overrides(search)))
        return {"validation_loss": board[0]["validation_loss"], "trials": len(board)}

    artifact = place.artifacts.build("hyperparameter_search", plan, make)
    metadata = {
        "best": dg.MetadataValue.json({name: board[0][name] for name in search.space.parameters}),
        "best_recipe": dg.MetadataValue.path(str(artifact.file("best.yaml"))),
        "validation_loss": float(board[0]["validation_loss"]),
        "trials": len(board),
        "given_up": sum(row["state"] == "pruned" for row in board),
        "failed": sum(row["state"] == "fail" for row in board),
        "leaderboard": records(
            [
                {key: value if isinstance(value, bool | int | float) else str(value) for key, value in row.items()}
                for row in [{"error": "", **row} for row in board]
            ]
        ),
        "history": figure(history(search.study)),
        "parameters": figure(parallel_coordinates(search)),
        **({"importance": figure(importance_figure(shares))} if shares else {}),
        "reused": artifact.reused,
    }
    return dg.Output(None, metadata=metadata, data_version=dg.DataVersion(artifact.id))


@dg.graph_asset(
    group_name="training",
    kinds={"optuna", "pytorch"},
    owners=["team:ml"],
    tags={"cost": "high"},
    ins={"sft_dataset": dg.AssetIn(dagster_type=dg.Nothing), "base_model": dg.AssetIn(dagster_type=dg.Nothing)},
    description="The best of many short trainings by validation loss: Optuna proposes, hopeless trials are stopped, a killed search"
    " goes on. `best_recipe` is a recipe for sft_checkpoint.",
)
def hyperparameter_search(sft_dataset: Any, base_model: Any) -> Any:
    return conclude_search(plan_trials(sft_dataset=sft_dataset, base_model=base_model).map(run_trial).collect())


defs = dg.Definitions(assets=[hyperparameter_search])
