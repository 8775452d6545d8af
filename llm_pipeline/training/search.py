"""Hyperparameter search by Optuna: trials are real trainings, watched while they run and stopped when they are hopeless.

A search is a folder: `study.db` (sqlite) and `trial-000/` ... Any number of processes of one machine may work on it at once.
Each holds the lock of its trial, which the kernel releases however the process ends: whoever comes next finds the dead trial,
puts it back into the queue, and its training goes on from its last checkpoint. A suggestion depends on the seed, the number of
the trial and the results before it alone, so a search that was killed proposes the same as one that was not.
"""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import PipelineError, TrainingError
from llm_pipeline.store import content_hash
from llm_pipeline.training.bases import starting_model
from llm_pipeline.training.launch import Message, train
from llm_pipeline.training.recipe import Recipe, load_recipe
from llm_pipeline.training.search_space import Space, check_space, override

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

Tell = Callable[[int, float], None]
"""Receives (step, validation loss) while a trial trains; raises to stop it."""
Objective = Callable[[Recipe, Path, Tell], float]
"""Trains a recipe in a folder and returns its last validation loss."""
TRIES = 3
"""How often a trial is started before it counts as failed."""


@dataclass(frozen=True)
class Search:
    """The search over `space` around a recipe in the folder `out`, by up to `trials` trials."""

    space: Space
    recipe: str | Path
    overrides: tuple[str, ...]
    objective: Objective
    out: Path
    trials: int
    say: Callable[[str], None] = lambda _: None

    def run(self) -> Study:
        """Work until every trial is over, those of other processes included."""
        check_space(self.space, self.recipe, self.overrides)
        while self.run_one():
            pass
        while any(trial.state.name == "RUNNING" for trial in self.study.get_trials(deepcopy=False)):
            time.sleep(0.5)
            while self.run_one():  # another process died
                pass
        return self.study

    def run_one(self) -> bool:
        """Run the next trial, if there is one to run."""
        with ExitStack() as held:
            with _locked(self.out / ".lock"):
                self._requeue_dead()
                origin = self._next()
                if origin is None:
                    return False
                self.study.sampler = self._sampler(origin)
                trial = self.study.ask()
                held.enter_context(_locked(self._lock(trial.number)))
            self._attempt(trial, origin)
        return True

    @cached_property
    def study(self) -> Study:
        import optuna
        from sqlalchemy.exc import OperationalError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            return optuna.create_study(
                study_name="search",
                storage=f"sqlite:///{self.out / 'study.db'}",
                direction="minimize",
                pruner=self._pruner(),
                load_if_exists=True,
            )
        except OperationalError as error:
            raise PipelineError(f"{self.out / 'study.db'}: no study can be opened here: {error.orig}") from error

    def recipe_of(self, params: dict[str, Any]) -> Recipe:
        """The recipe with these parameters, validated often enough to be judged while it trains."""
        recipe = load_recipe(self.recipe, self.overrides_of(params))
        return replace(recipe, evaluation_steps=max(1, round(self.space.validate_every / recipe.batch_size)))

    def overrides_of(self, params: dict[str, Any]) -> list[str]:
        return [*self.overrides, *(override(name, value) for name, value in params.items())]

    def _attempt(self, trial: Trial, origin: int) -> None:
        from optuna import TrialPruned
        from optuna.trial import TrialState

        params = {name: parameter.suggest(trial, name) for name, parameter in self.space.parameters.items()}
        shown = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items())
        folder = self.out / f"trial-{origin:03}"
        self.say(f"trial {origin}: {shown}")
        try:
            recipe = self.recipe_of(params)
            loss = self.objective(recipe, folder, self._judge(trial, recipe))
            if not math.isfinite(loss):
                raise TrainingError(f"trial {origin}: the validation loss is {loss}")
        except TrialPruned as reason:
            self.study.tell(trial, state=TrialState.PRUNED)
            self.say(f"trial {origin}: given up, {reason}")
        except BaseException as error:
            again = not isinstance(error, Exception) or (isinstance(error, TrainingError) and error.retryable)
            trial.set_user_attr("error", str(error)[:2000] or type(error).__name__)
            self.study.tell(trial, state=TrialState.FAIL)
            if again:
                self._requeue(self.study.get_trials(deepcopy=False)[trial.number])
            if not isinstance(error, PipelineError):
                raise
            self.say(f"trial {origin}: failed, {error}")
            return
        else:
            self.study.tell(trial, loss)
            self.say(f"trial {origin}: validation loss {loss:.4f}")
        _keep_curve(folder)

    def _judge(self, trial: Trial, recipe: Recipe) -> Tell:
        from optuna import TrialPruned

        known = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def tell(step: int, loss: float) -> None:
            point = round(step / recipe.evaluation_steps)
            if point in known:  # a resumed training validates again where it stood before
                return
            known.add(point)
            trial.report(loss, point)
            if trial.should_prune():
                raise TrialPruned(f"validation loss {loss:.4f} after {step} steps")

        return tell

    def _next(self) -> int | None:
        """The number by which the next trial is known (its own, or that of the dead one it repeats); None: nothing is left."""
        known = self.study.get_trials(deepcopy=False)
        waiting = [trial for trial in known if trial.state.name == "WAITING"]
        if waiting:
            return _origin(waiting[0])
        fresh = sum("repeats" not in trial.user_attrs for trial in known)
        return len(known) if fresh < self.trials else None

    def _requeue_dead(self) -> None:
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "RUNNING" and _is_free(self._lock(trial.number)):
                self.study.tell(trial.number, state=_failed())
                self._requeue(trial)

    def _requeue(self, trial: FrozenTrial) -> None:
        from optuna.trial import TrialState, create_trial

        tries = int(trial.user_attrs.get("tries", 1)) + 1
        if tries > TRIES:
            return
        again = create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={"repeats": _origin(trial), "tries": tries},
        )
        self.study.add_trial(again)

    def _lock(self, number: int) -> Path:
        return self.out / ".locks" / str(number)

    def _sampler(self, origin: int) -> Any:
        from optuna.samplers import RandomSampler, TPESampler

        fresh = sum("repeats" not in t.user_attrs for t in self.study.get_trials(deepcopy=False) if t.number < origin)
        seed = int(content_hash(self.space.seed, fresh)[:8], 16)
        if self.space.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self.space.startup_trials)

    def _pruner(self) -> Any:
        from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

        if self.space.pruner == "median":
            return MedianPruner(n_startup_trials=self.space.startup_trials)
        return SuccessiveHalvingPruner(reduction_factor=3) if self.space.pruner == "asha" else NopPruner()


def by_training(data: Path, validation: Path, base: Path) -> Objective:
    """The objective that trains `base` on `data` in a process of its own, and listens to its validations."""

    def objective(recipe: Recipe, folder: Path, tell: Tell) -> float:
        def hear(message: Message) -> None:
            if message.get("event") == "validation":
                tell(int(message["step"]), float(message["validation_loss"]))

        folder.mkdir(parents=True, exist_ok=True)
        start = starting_model(recipe, base, data, folder)
        result = train(recipe, data=data, validation=validation, base=start, work=folder, on_message=hear)
        loss = json.loads((result / "figures.json").read_text("utf-8")).get("validation_loss")
        if loss is None:
            raise TrainingError(f"{folder}: the training has no validation loss; expected rows in {validation}")
        return float(loss)

    return objective


def _origin(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("repeats", trial.number))


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _keep_curve(folder: Path) -> None:
    """Of a finished trial only what it was asked and how it went; its weights are made again from the best recipe."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("recipe.yaml", "provenance.json", "progress.jsonl"):
            path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock, so that whoever took it is dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
