"""The memory that is estimated is the memory that is taken, and a run that can't fit never starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_pipeline.errors import TrainingError
from llm_pipeline.paths import RECIPES
from llm_pipeline.store import write_jsonl
from llm_pipeline.training.bases import SHIPPED, describe_model, starting_model
from llm_pipeline.training.launch import curve, train
from llm_pipeline.training.memory import RUNTIME, Shape, _cgroup, estimate, free_memory, refuse_what_cannot_fit, shape_for, shape_of
from llm_pipeline.training.recipe import Architecture, Recipe, load_recipe

FACTOR = 1.6
"""Estimated and measured growth of a process differ by no more than this."""
LORA = Recipe(method="pretrain", max_steps=2, batch_size=8, logging_steps=1, save_steps=100, threads=1, evaluation_rows=0)
FULL = replace(
    LORA, adapter="none", batch_size=2, max_length=256,
    architecture=Architecture(hidden_size=512, intermediate_size=1536, layers=8, heads=8, key_value_heads=4),
)  # fmt: skip
SEVEN = Shape(4096, 32, 32, 11008, 4096, 32000, tied=False)
"""Llama 2 7B."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recipe", [LORA, FULL], ids=["lora", "full"])
def test_what_is_estimated_is_taken(tmp_path: Path, recipe: Recipe) -> None:
    data = tmp_path / "train.jsonl"
    write_jsonl(data, [{"text": f"{number} " + " ".join(f"word{i}" for i in range(2000))} for number in range(4)])
    base = starting_model(recipe, SHIPPED, data, tmp_path / "work")
    train(recipe, data=data, base=base, work=tmp_path / "work")
    taken = max(point["peak_memory_megabytes"] for point in curve(tmp_path / "work")) * 1e6 - RUNTIME["cpu"]
    assert 1 / FACTOR < taken / estimate(recipe, shape_of(base), 1).states < FACTOR


def test_parameters_by_formula_are_those_in_the_files() -> None:
    config = json.loads((SHIPPED / "config.json").read_text())
    assert Shape.of(config).parameters == describe_model(SHIPPED)["parameters"] == shape_of(SHIPPED).parameters
    assert SEVEN.parameters == 6_738_415_616


def test_zero_divides_what_its_paper_says() -> None:
    """Rajbhandari et al. 2020, table 1: per parameter 2 bytes of weights, 2 of gradients, and the optimiser's, over N processes."""
    recipe = Recipe(adapter="none", batch_size=64, processes=8, device="cuda", gradient_checkpointing=True)
    one, two, three = (estimate(replace(recipe, zero_stage=stage), SEVEN, 64) for stage in (1, 2, 3))
    count = SEVEN.parameters
    assert (one.weights, two.weights) == (2 * count, 2 * count)
    assert three.weights < 2 * count / 64 + 100e6
    assert one.gradients > 2 * count > 32 * two.gradients
    assert one.optimizer == two.optimizer == three.optimizer == round(24 * count / 64)
    moved = estimate(replace(recipe, zero_stage=3, offload="parameters"), SEVEN, 64)
    assert moved.optimizer == 0
    assert moved.host > three.optimizer
    assert moved.total < three.total


def test_recomputing_and_accumulating_take_less() -> None:
    recipe = Recipe(adapter="none", batch_size=8, max_length=2048, device="cuda")
    plain = estimate(recipe, SEVEN, 1)
    assert estimate(replace(recipe, gradient_checkpointing=True), SEVEN, 1).activations < plain.activations / 8
    assert estimate(replace(recipe, accumulation=4), SEVEN, 1).logits == pytest.approx(plain.logits / 4)
    assert estimate(replace(recipe, adapter="lora"), SEVEN, 1).optimizer < plain.optimizer / 20


def test_what_cannot_fit_is_refused_with_numbers() -> None:
    recipe = load_recipe("tiny_cpu", ["processes=2"])
    refuse_what_cannot_fit(recipe, SHIPPED, 2, 2, free=10**10)
    need = estimate(recipe, shape_of(SHIPPED), 2)
    with pytest.raises(TrainingError, match=rf"{2 * need.states / 1e6:,.0f} MB needed on cpu, 30 MB free .*weights \d+.*lower max_length"):
        refuse_what_cannot_fit(recipe, SHIPPED, 2, 2, free=30_000_000)


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    assert _cgroup(tmp_path) == [400]
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup(tmp_path) == []
    assert (free_memory("cpu") or 0) > 0


def test_the_verb_answers_with_numbers_and_its_exit_code() -> None:
    from llm_pipeline.cli import app

    command = ["estimate", "tiny_cpu", "--set", "device=cuda", "--set", "processes=2", "--machines", "2", "--json"]
    fits = CliRunner().invoke(app, [*command, "--memory", "80"])
    assert fits.exit_code == 0, fits.output
    result = json.loads(fits.stdout.splitlines()[0])
    assert (result["processes"], result["fits"], result["free_megabytes"]) == (4, True, 80_000)
    assert result["needed_megabytes"] == result["megabytes_per_process"]["total"]
    small = CliRunner().invoke(app, [*command, "--memory", "0.5"])
    assert small.exit_code == 1
    assert "not enough memory" in small.output


RECIPE_FILES = sorted(path for path in RECIPES.glob("*.yaml") if path.stem not in ("tiny_base", "search_tiny"))


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_every_recipe_with_a_local_base_can_be_estimated(path: Path) -> None:
    recipe = load_recipe(path)
    if "/" in recipe.base:
        pytest.skip(f"its base {recipe.base} is on the hub")
    assert estimate(recipe, shape_for(recipe), recipe.processes).total > RUNTIME[recipe.device]
