"""What a search found: the trials in order, the best recipe as a file, and pictures of how it got there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llm_pipeline.errors import TrainingError
from llm_pipeline.store import write_atomically
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.search import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

_ORDER = {"COMPLETE": 0, "PRUNED": 1, "RUNNING": 2, "WAITING": 2, "FAIL": 3}
_COLOURS = {"COMPLETE": "#2f7ed8", "PRUNED": "#c9a227", "FAIL": "#b0503c"}


def leaderboard(study: Study) -> list[dict[str, Any]]:
    """One row per trial, the best first; of a repeated one its last try."""
    last = {int(trial.user_attrs.get("repeats", trial.number)): trial for trial in study.get_trials(deepcopy=False)}
    ranked = sorted(last.items(), key=lambda item: (_ORDER[item[1].state.name], _loss(item[1]), item[0]))
    return [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            "validation_loss": _loss(trial) if trial.intermediate_values or trial.value is not None else None,
            "validations": len(trial.intermediate_values),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            **trial.params,
            **({"error": trial.user_attrs["error"]} if trial.state.name == "FAIL" and "error" in trial.user_attrs else {}),
        }
        for number, trial in ranked
    ]


def best_overrides(search: Search) -> list[str]:
    """The best trial as `key=value` overrides of the search's recipe."""
    return search.overrides_of(_best(search).params)


def write_best(search: Search, path: Path) -> Recipe:
    """Write the recipe of the best trial; `path` is then a recipe like any other."""
    recipe = search.recipe_of(_best(search).params)
    write_atomically(path, f"# Trial {_best(search).number}: validation loss {_best(search).value:.5f}\n{yaml.safe_dump(asdict(recipe))}")
    return recipe


def _best(search: Search) -> FrozenTrial:
    done = [trial for trial in search.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not done:
        errors = {str(trial.user_attrs["error"]) for trial in search.study.get_trials(deepcopy=False) if "error" in trial.user_attrs}
        raise TrainingError(f"{search.out}: no trial was completed; {'; '.join(sorted(errors)) or 'none was run'}")
    return min(done, key=lambda trial: (_loss(trial), trial.number))


def _loss(trial: FrozenTrial) -> float:
    if trial.value is not None:
        return float(trial.value)
    return min(trial.intermediate_values.values(), default=float("inf"))


def history(study: Study) -> Figure:
    """Each trial's loss in the order of their start, and the best so far."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6, 3))
    axes = fig.add_subplot()
    trials = study.get_trials(deepcopy=False)
    for state, colour in _COLOURS.items():
        shown = [t for t in trials if t.state.name == state and _loss(t) < float("inf")]
        axes.scatter([t.number for t in shown], [_loss(t) for t in shown], color=colour, label=state.lower(), s=24)
    done = [t for t in trials if t.state.name == "COMPLETE"]
    best = [min(_loss(t) for t in done[: i + 1]) for i in range(len(done))]
    axes.step([t.number for t in done], best, where="post", color="#333333", linewidth=1, label="best so far")
    axes.set(xlabel="trial", ylabel="validation loss (nats per token)")
    axes.legend(fontsize=7)
    return fig


def importance(study: Study) -> Mapping[str, float]:
    """Share of the loss's variance that each parameter explains (fANOVA, Hutter et al. 2014); empty while nothing can be said."""
    import optuna

    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    shares = optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}


def importance_figure(shares: Mapping[str, float]) -> Figure:
    from matplotlib.figure import Figure

    fig = Figure(figsize=(6, 0.8 + 0.3 * len(shares)))
    axes = fig.add_subplot()
    axes.barh(list(shares)[::-1], list(shares.values())[::-1], color="#5f87b0")
    axes.set(xlabel="share of the variance of the loss", xlim=(0, 1))
    return fig


def parallel_coordinates(search: Search) -> Figure:
    """Every completed trial as a line over the parameters' axes, the darker the better."""
    import math

    from matplotlib.figure import Figure

    fig = Figure(figsize=(1.5 + 1.4 * len(search.space.parameters), 3.2))
    axes = fig.add_subplot()
    names = list(search.space.parameters)
    done = sorted((t for t in search.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"), key=_loss, reverse=True)
    for rank, trial in enumerate(done, 1):
        heights = []
        for name in names:
            parameter, value = search.space.parameters[name], trial.params[name]
            if parameter.type == "categorical":
                heights.append(parameter.choices.index(value) / max(1, len(parameter.choices) - 1))
                continue
            scale = math.log if parameter.log else float
            low, high = (scale(float(bound)) for bound in parameter.extremes)
            heights.append((scale(float(value)) - low) / (high - low) if high > low else 0.5)
        axes.plot(
            range(len(names)), heights, color="#1f4f8f", alpha=0.15 + 0.85 * (rank / len(done)) ** 2, linewidth=1 + 2 * (rank == len(done))
        )
    labels = [f"{name}\n{_short(p.extremes[0])} to {_short(p.extremes[-1])}" for name, p in search.space.parameters.items()]
    axes.set_xticks(range(len(names)), labels, fontsize=7)
    axes.set_yticks([])
    axes.set_title("bold: the best", fontsize=8)
    return fig


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
