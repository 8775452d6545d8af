"""What a hyperparameter search may vary: a YAML file of dotted recipe keys, each with its range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import yaml

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import RECIPES
from llm_pipeline.training.recipe import load_recipe

if TYPE_CHECKING:
    from optuna import Trial

Value = bool | int | float | str


@dataclass(frozen=True)
class Parameter:
    """A number from `low` to `high` (both included; `log`: uniform in its logarithm), or one of `choices`."""

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if self.type == "categorical":
            if not self.choices or self.low is not None or self.high is not None or self.log:
                raise ConfigError(f"categorical parameter: expected choices and nothing else, received {self}")
            return
        if self.choices or self.low is None or self.high is None or not self.low <= self.high:
            raise ConfigError(f"{self.type} parameter: expected low <= high and no choices, received {self}")
        if self.log and self.low <= 0:
            raise ConfigError(f"{self.type} parameter: a logarithmic range starts above 0, received low {self.low}")
        if self.type == "int" and (self.low % 1 or self.high % 1):
            raise ConfigError(f"int parameter: expected whole bounds, received {self.low} and {self.high}")

    def suggest(self, trial: Trial, name: str) -> Value:
        if self.type == "categorical":
            return cast(Value, trial.suggest_categorical(name, list(self.choices)))
        assert self.low is not None
        assert self.high is not None
        if self.type == "int":
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    @property
    def extremes(self) -> tuple[Value, ...]:
        """The values that a recipe must accept if it is to accept all."""
        if self.type == "categorical":
            return self.choices
        bounds = (self.low or 0.0, self.high or 0.0)
        return tuple(map(int, bounds)) if self.type == "int" else bounds


@dataclass(frozen=True)
class Space:
    """The parameters of a search, how the next trial is chosen, and when one is given up."""

    parameters: Mapping[str, Parameter]
    description: str = ""
    seed: int = 0
    sampler: Literal["tpe", "random"] = "tpe"
    """Tree-structured Parzen estimator (Bergstra et al. 2011), or uniform draws."""
    pruner: Literal["median", "asha", "none"] = "median"
    """Give a trial up when its validation loss is above the median of the others at that point (Golovin et al. 2017), or when it
    is not among the best third of those that came as far (Li et al. 2020, arXiv:1810.05934)."""
    startup_trials: int = 4
    """Drawn uniformly and never pruned: without any others there is nothing to compare with."""
    validate_every: int = 40
    """Rows between two validations, whatever the batch size, so that trials are compared after the same amount of data."""

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ConfigError("search space: expected at least one parameter")
        if self.validate_every < 1 or self.startup_trials < 1:
            raise ConfigError(f"search space: expected validate_every and startup_trials of at least 1, received {self}")


def load_space(name: str | Path) -> Space:
    """A search space by the name of a file `search_<name>.yaml` in llm_pipeline/recipes, or by path."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else RECIPES / f"search_{name}.yaml"
    return load(Space, path)


def check_space(space: Space, recipe: str | Path, overrides: tuple[str, ...]) -> None:
    """Raise ConfigError when the recipe has no such key or refuses a bound or choice: before anything is trained."""
    for name, parameter in space.parameters.items():
        for value in parameter.extremes:
            load_recipe(recipe, (*overrides, override(name, value)))


def override(name: str, value: Value) -> str:
    """`name=value` as the command line takes it (YAML wants a point in a float: 1.0e-05)."""
    return f"{name}={yaml.safe_dump(value).splitlines()[0]}"
