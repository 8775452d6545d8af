"""The search: typed spaces, the same suggestions for the same study, pruning that stops, and a kill -9 that costs nothing."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.errors import ConfigError, TrainingError
from llm_pipeline.paths import RECIPES
from llm_pipeline.store import Home, write_jsonl
from llm_pipeline.training.recipe import Recipe, load_recipe
from llm_pipeline.training.search import Search, Tell
from llm_pipeline.training.search_report import best_overrides, leaderboard, write_best
from llm_pipeline.training.search_space import Parameter, Space, check_space, load_space, override
from llm_pipeline_tests.training.conftest import rows

SPACE = Space(
    {
        "learning_rate": Parameter("float", 1e-5, 1e-1, log=True),
        "lora.r": Parameter("categorical", choices=(4, 8)),
        "batch_size": Parameter("int", 1, 4),
    },
    startup_trials=2,
)


def bowl(recipe: Recipe, folder: Path, tell: Tell) -> float:
    """Lowest at a learning rate of 0.003, with little noise from the rest; told as a curve that falls to its end."""
    loss = abs(recipe.learning_rate - 3e-3) * 100 + recipe.batch_size / 100
    for point in range(1, 5):
        tell(point * recipe.evaluation_steps, loss + 1 / point)
    return loss


def search(out: Path, objective: Callable[[Recipe, Path, Tell], float] = bowl, trials: int = 6, space: Space = SPACE) -> Search:
    return Search(space, "tiny_cpu", ("max_steps=10",), objective, out, trials)


def params(found: Search) -> list[dict[str, Any]]:
    return [t.params for t in found.study.get_trials() if "repeats" not in t.user_attrs]


def test_spaces_are_checked_before_anything_is_trained(tmp_path: Path) -> None:
    for wrong in (
        {"type": "float", "low": 2, "high": 1},
        {"type": "float", "low": 0, "high": 1, "log": True},
        {"type": "int", "low": 0.5, "high": 3},
        {"type": "categorical"},
        {"type": "categorical", "choices": [1], "low": 0},
    ):
        with pytest.raises(ConfigError):
            Parameter(**wrong)  # type: ignore[arg-type]
    path = tmp_path / "space.yaml"
    path.write_text("parameters: {learning_rat: {type: float, low: 1.0e-4, high: 1.0e-3}}")
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        check_space(load_space(path), "tiny_cpu", ())
    path.write_text("parameters: {batch_size: {type: int, low: 0, high: 4}}\nseeds: 3")
    with pytest.raises(ConfigError, match="seeds"):
        load_space(path)


def test_every_shipped_space_fits_its_recipe() -> None:
    spaces = sorted(RECIPES.glob("search_*.yaml"))
    assert spaces
    for path in spaces:
        check_space(load_space(path), "tiny_cpu", ())


def test_numbers_survive_the_way_through_yaml() -> None:
    for value in (1e-05, 3, 0.25, True, "cosine"):
        _, _, text = override("x", value).partition("=")
        assert load_recipe("tiny_cpu", [override("learning_rate", 1e-05)]).learning_rate == 1e-05
        assert text


def test_the_same_study_suggests_the_same_and_finds_the_best(tmp_path: Path) -> None:
    first, second = search(tmp_path / "a"), search(tmp_path / "b")
    first.run()
    second.run()
    assert params(first) == params(second)
    assert len({json.dumps(p) for p in params(first)}) == 6
    other = search(tmp_path / "c", space=replace(SPACE, seed=1))
    other.run()
    assert params(other) != params(first)
    complete = [t.value for t in first.study.get_trials() if t.state.name == "COMPLETE"]
    assert leaderboard(first.study)[0]["validation_loss"] == min(complete)
    best = write_best(first, tmp_path / "best.yaml")
    assert load_recipe(tmp_path / "best.yaml") == best
    assert load_recipe("tiny_cpu", best_overrides(first)).learning_rate == first.study.best_params["learning_rate"]


def test_hopeless_trials_are_stopped_and_broken_ones_do_not_end_the_search(tmp_path: Path) -> None:
    told: dict[str, int] = {}

    def objective(recipe: Recipe, folder: Path, tell: Tell) -> float:
        number = int(folder.name[-3:])
        (folder / "checkpoint-1").mkdir(parents=True)
        (folder / "progress.jsonl").write_text("{}")
        if number == 3:
            raise TrainingError("NaN loss in batch 7")
        for point in range(1, 6):
            told[folder.name] = point
            tell(point * recipe.evaluation_steps, float(number))
        return float(number)

    found = search(tmp_path, objective, trials=5, space=replace(SPACE, pruner="median"))
    states = [t.state.name for t in found.run().get_trials()]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "PRUNED"]
    assert told["trial-000"] == 5
    assert told["trial-002"] == told["trial-004"] == 1
    assert "NaN loss in batch 7" in leaderboard(found.study)[-1]["error"]
    assert [p.name for p in (tmp_path / "trial-002").iterdir()] == ["progress.jsonl"]
    assert found.run_one() is False


@pytest.mark.parametrize("pruner", ["asha", "none"])
def test_pruners_by_name(tmp_path: Path, pruner: Any) -> None:
    space = replace(SPACE, pruner=pruner, startup_trials=1)

    def objective(recipe: Recipe, folder: Path, tell: Tell) -> float:
        for point in range(1, 10):
            tell(point * recipe.evaluation_steps, float(folder.name[-3:]) + 1)
        return 1.0

    states = [t.state.name for t in search(tmp_path, objective, 6, space).run().get_trials()]
    assert states.count("PRUNED") >= 3 if pruner == "asha" else states.count("COMPLETE") == 6


KILLED = """
import os, signal, sys
from pathlib import Path
from llm_pipeline.training.search import Search
from llm_pipeline.training.search_space import Parameter, Space

SPACE = Space({{
    "learning_rate": Parameter("float", 1e-5, 1e-1, log=True),
    "lora.r": Parameter("categorical", choices=(4, 8)),
    "batch_size": Parameter("int", 1, 4),
}}, startup_trials=2)

{bowl}

def objective(recipe, folder, tell):
    def die(step, loss):
        tell(step, loss)
        (folder / "checkpoint-10").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(recipe, folder, die if folder.name == "trial-001" else tell)

Search(SPACE, "tiny_cpu", ("max_steps=10",), objective, Path(sys.argv[1]), 6).run()
"""


def test_a_killed_search_goes_on_where_it_was_with_the_same_suggestions(tmp_path: Path) -> None:
    script = "from __future__ import annotations" + KILLED.format(bowl=inspect.getsource(bowl))
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], cwd=Path(__file__).parents[2], check=False)
    assert died.returncode == -signal.SIGKILL
    resumed: list[bool] = []

    def objective(recipe: Recipe, folder: Path, tell: Tell) -> float:
        resumed.append((folder / "checkpoint-10").exists())
        return bowl(recipe, folder, tell)

    again, whole = search(tmp_path / "a", objective), search(tmp_path / "b")
    again.run()
    whole.run()
    assert resumed == [True, False, False, False, False]
    assert [t.state.name for t in again.study.get_trials()].count("FAIL") == 1
    assert params(again) == params(whole)
    assert again.study.best_value == whole.study.best_value
    assert len(leaderboard(again.study)) == 6


def test_an_interrupted_trial_is_tried_again_but_not_for_ever(tmp_path: Path) -> None:
    tried = 0

    def objective(recipe: Recipe, folder: Path, tell: Tell) -> float:
        nonlocal tried
        tried += 1
        raise TrainingError("the process was killed", retryable=True)

    assert [t.state.name for t in search(tmp_path, objective, trials=1).run().get_trials()] == ["FAIL"] * 3
    assert tried == 3

    def stop(recipe: Recipe, folder: Path, tell: Tell) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "b", stop, trials=1).run()
    assert search(tmp_path / "b", trials=1).run().best_value > 0


def test_two_processes_share_the_trials_between_them(tmp_path: Path) -> None:
    """A trial that is running (its lock is held) is neither taken nor repeated by the other."""
    other = search(tmp_path, trials=3)

    def objective(recipe: Recipe, folder: Path, tell: Tell) -> float:
        if folder.name == "trial-000":
            assert other.run_one()
            assert other.run_one()
            assert not other.run_one()
        return 1.0

    found = search(tmp_path, objective, trials=3)
    found.run()
    assert [t.state.name for t in found.study.get_trials()] == ["COMPLETE"] * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_real_trials_from_the_command_line(small_base: Path, tmp_path: Path) -> None:
    from llm_pipeline.cli import app

    write_jsonl(tmp_path / "train.jsonl", rows())
    write_jsonl(tmp_path / "validation.jsonl", rows(4))
    (tmp_path / "recipe.yaml").write_text(
        f"base: {small_base}\nmax_steps: 12\nbatch_size: 2\nmax_length: 96\nthreads: 1\nzero_stage: 0\nlora: {{r: 8, alpha: 16}}\n"
    )
    (tmp_path / "space.yaml").write_text(
        "parameters: {learning_rate: {type: categorical, choices: [0.01, 1.0e-06]}}\nvalidate_every: 4\nstartup_trials: 1\n"
    )
    command = ["search", str(tmp_path / "space.yaml"), "--recipe", str(tmp_path / "recipe.yaml"), "--data", str(tmp_path / "train.jsonl")]
    done = CliRunner().invoke(app, [*command, "--trials", "2", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    losses = [row["validation_loss"] for row in result["leaderboard"] if row["state"] == "complete"]
    assert result["validation_loss"] == min(losses)
    assert result["trials"] == 2
    assert load_recipe(tmp_path / "out" / "best.yaml").learning_rate == result["best"]["learning_rate"]
    validations = [
        json.loads(line)
        for line in (tmp_path / "out" / "trial-000" / "progress.jsonl").read_text().splitlines()
        if "validation_loss" in line
    ]
    assert {v["step"] for v in validations if v["event"] == "validation"} >= {2, 4, 6}
    assert not list((tmp_path / "out").glob("trial-*/checkpoint-*"))


def fake_training(data: Path, validation: Path, base: Path) -> Callable[[Recipe, Path, Tell], float]:
    assert data.exists()
    assert validation.exists()
    assert base.exists()
    return bowl


@pytest.mark.filterwarnings("ignore::dagster.PreviewWarning", "ignore::dagster.BetaWarning")
def test_the_asset_shows_the_search_and_offers_a_recipe(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    from llm_pipeline.defs.resources import HomeResource
    from llm_pipeline.defs.training_search import hyperparameter_search, run_trial

    monkeypatch.setattr("llm_pipeline.training.search.by_training", fake_training)
    assert run_trial.pool == "training"

    def run(trials: int) -> dict[str, Any]:
        config = {"trials": trials, "overrides": ["max_steps=10"]}
        result = dg.materialize(
            [hyperparameter_search],
            resources={"home": HomeResource(root=str(home.root))},
            run_config={"ops": {"hyperparameter_search": {"ops": {"plan_trials": {"config": config}}}}},
        )
        return dict(result.asset_materializations_for_node("hyperparameter_search.conclude_search")[0].metadata)

    shown = run(4)
    assert shown["trials"].value == 4
    assert {"history", "parameters", "importance", "leaderboard"} <= shown.keys()
    artifact = home.artifacts.named("hyperparameter_search")
    best = load_recipe(artifact.file("best.yaml"))
    assert best.learning_rate == artifact.json("leaderboard.json")["trials"][0]["learning_rate"]
    assert load_recipe("tiny_cpu", artifact.json("overrides.json")).learning_rate == best.learning_rate
    more = run(5)
    assert more["trials"].value == 5
    assert len(list((home.root / "searches").iterdir())) == 1
    assert more["validation_loss"].value <= shown["validation_loss"].value
