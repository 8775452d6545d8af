from __future__ import annotations

from pathlib import Path

import pytest

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import RECIPES
from llm_pipeline.training.base import BaseRecipe
from llm_pipeline.training.recipe import Recipe, deepspeed_config, load_recipe


def test_shipped_recipes_load() -> None:
    assert load_recipe().base == "shipped"
    assert load(BaseRecipe, RECIPES / "tiny_base.yaml").hidden_size == 256


def test_overrides_reach_nested_fields() -> None:
    assert load_recipe("tiny_cpu", ["lora.r=8", "epochs=1"]).lora.r == 8


def test_unknown_key_names_the_near_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("lerning_rate: 0.1\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: unknown key 'lerning_rate'; did you mean 'learning_rate'"):
        load_recipe(path)


def test_unknown_recipe_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'tiny_cpu\.yaml'"):
        load_recipe("tiny_cpus")


def test_batch_must_divide_over_processes() -> None:
    with pytest.raises(ConfigError, match="batch_size 3"):
        Recipe(batch_size=3, processes=2)


def test_what_does_not_decide_the_weights_is_not_an_input() -> None:
    assert Recipe(save_steps=3).inputs() == Recipe().inputs()
    assert Recipe(seed=3).inputs() != Recipe().inputs()


def test_zero_stage_reaches_deepspeed() -> None:
    assert deepspeed_config(Recipe(zero_stage=3))["zero_optimization"]["stage"] == 3
