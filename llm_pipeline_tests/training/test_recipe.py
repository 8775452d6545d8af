from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import RECIPES
from llm_pipeline.training.base import BaseRecipe
from llm_pipeline.training.recipe import (
    Architecture,
    Distillation,
    Lora,
    Preference,
    Recipe,
    catalogue,
    deepspeed_config,
    load_recipe,
)


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


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_typed_and_explained(path: Path) -> None:
    shipped = catalogue()
    if path.stem in shipped:
        assert shipped[path.stem].description.endswith("."), "one sentence"
    else:
        with pytest.raises(ConfigError, match="unknown key"):
            load_recipe(path)


def test_the_catalogue_has_every_method_and_adapter() -> None:
    recipes = catalogue().values()
    assert {recipe.method for recipe in recipes} == {"sft", "pretrain", "dpo", "kto", "reward", "distill"}
    assert {recipe.adapter for recipe in recipes} == {"none", "lora", "qlora", "prefix", "prompt"}
    assert load_recipe("full_multinode").zero_stage == 3
    assert load_recipe("lora_gpu").device == "cuda"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"adapter": "qlora", "zero_stage": 3}, "4-bit weights are packed bytes"),
        ({"adapter": "prefix", "gradient_checkpointing": True}, "would not see the prefix"),
        ({"adapter": "prompt", "zero_stage": 3}, "would wait for ever"),
        ({"adapter": "prefix", "method": "reward"}, "expected none, lora or qlora"),
        ({"adapter": "prompt", "method": "distill"}, "expected none, lora or qlora"),
        ({"architecture": Architecture()}, "never trained; expected adapter none"),
        ({"architecture": Architecture(), "adapter": "none", "method": "dpo"}, "expected pretrain, sft or distill"),
        ({"architecture": Architecture(), "adapter": "none", "base": "scratch"}, "one or the other"),
        ({"method": "kto", "batch_size": 1}, "expected at least 2"),
        ({"method": "distill", "distillation": Distillation(layers=2)}, "expected adapter none"),
        ({"method": "distill", "distillation": Distillation(divergence=2)}, "expected 0 to 1"),
        ({"early_stopping": 2}, "expected evaluation_steps above 0"),
        ({"early_stopping": 2, "evaluation_steps": 20, "save_steps": 50}, "expected a multiple of evaluation_steps"),
        ({"offload": "parameters"}, "3 for parameters"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Recipe(**settings)


def test_heads_divide_the_hidden_size() -> None:
    with pytest.raises(ConfigError, match="expected heads to divide hidden_size 100"):
        Architecture(hidden_size=100, heads=3)


def test_settings_that_a_method_does_not_read_are_no_inputs() -> None:
    assert Recipe(distillation=Distillation(divergence=1)).inputs() == Recipe().inputs()
    teachers = [Recipe(method="distill", distillation=Distillation(teacher=name)).inputs() for name in ("/a", "/b")]
    assert teachers[0] == teachers[1], "a teacher is known by its content, not by its place"
    assert Recipe(method="dpo", preference=Preference(beta=0.5)).inputs() != Recipe(method="dpo").inputs()
    assert Recipe(adapter="none", lora=Lora(r=2)).inputs() == Recipe(adapter="none").inputs()


OFFLOADED: list[tuple[Any, Any, set[str]]] = [
    ("none", 2, set()),
    ("optimizer", 1, {"offload_optimizer"}),
    ("parameters", 3, {"offload_optimizer", "offload_param"}),
]


@pytest.mark.parametrize(("offload", "stage", "expected"), OFFLOADED)
def test_offloading_reaches_deepspeed(offload: Any, stage: Any, expected: set[str]) -> None:
    zero = deepspeed_config(Recipe(offload=offload, zero_stage=stage))["zero_optimization"]
    assert {key for key in zero if key.startswith("offload")} == expected
