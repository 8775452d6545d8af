"""Every shipped recipe trains for real, small: what should change changes, nothing else does, and the result is a whole model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llm_pipeline.errors import ConfigError
from llm_pipeline.training.merge import is_reward, standalone
from llm_pipeline.training.trainers import figures
from llm_pipeline_tests.training.methods import ROWS, finish, prepared, small

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),  # PEFT and TRL ask by the old name
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),  # bitsandbytes' and DeepSpeed's imports
]
RUNNABLE = ["tiny_cpu", "full", "qlora", "prefix", "prompt", "dpo", "kto", "reward", "distill", "continue", "pretrain"]


@pytest.mark.parametrize("name", RUNNABLE)
def test_recipe_trains_what_it_says_and_leaves_a_whole_result(name: str, small_base: Path, tmp_path: Path) -> None:
    recipe = small(name, small_base, "precision=fp32")
    messages: list[dict[str, Any]] = []
    trainer = prepared(recipe, small_base, tmp_path, messages)
    before = {key: (p.requires_grad, p.detach().clone()) for key, p in trainer.model.named_parameters()}
    result = finish(trainer, recipe, tmp_path)
    after = dict(trainer.model.named_parameters())
    moved = {key for key, (_, value) in before.items() if not torch.equal(value, after[key].detach())}
    trained = {key for key, (trainable, _) in before.items() if trainable}
    assert moved <= trained, "frozen weights stay"
    assert len(moved) > 0.6 * len(trained), "most of what is trained moves"
    losses = [message["loss"] for message in messages if message["event"] == "progress"]
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    found = figures(trainer, trainer.evaluate())
    assert math.isfinite(found["validation_loss"])
    assert (found["validation_preference_accuracy"] is not None) == (recipe.method in ("dpo", "reward"))
    assert (found["trainable_parameters"] == found["parameters"]) == (recipe.adapter == "none")
    _check_result(recipe.virtual, trainer, result, tmp_path / "start" if (tmp_path / "start").exists() else small_base, tmp_path / "model")


def _check_result(virtual: bool, trainer: Any, result: Path, start: Path, out: Path) -> None:
    """Written as one model, it gives the logits of the trainer's own, and has the tokenizer with its template."""
    from peft import AutoPeftModelForCausalLM

    whole = standalone(start, result, out)
    assert whole != virtual
    folder = out if whole else result / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    kind = AutoModelForSequenceClassification if is_reward(folder) else AutoModelForCausalLM
    loaded = (kind if whole else AutoPeftModelForCausalLM).from_pretrained(folder).eval()
    tokens = torch.tensor([tokenizer.encode("What is the fee?")])
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        here = trainer.model.eval()(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
        there = loaded(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
    # Four bits round away more than that, and merging adds the update to the weights before they were rounded.
    tolerance = 0.1 * here.abs().max().item() if getattr(trainer.model, "is_loaded_in_4bit", False) else 2e-3 * here.abs().max().item()
    torch.testing.assert_close(here, there, atol=max(tolerance, 1e-4), rtol=0)


def test_random_weights_have_the_shape_and_a_tokenizer_of_the_rows(small_base: Path, tmp_path: Path) -> None:
    trainer = prepared(small("pretrain", small_base), small_base, tmp_path)
    assert (trainer.model.config.hidden_size, trainer.model.config.num_hidden_layers) == (32, 2)
    assert trainer.model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "start")) <= 300
    same_tokens = small("pretrain", small_base, "architecture.vocabulary=0")
    other = prepared(same_tokens, small_base, tmp_path / "other")
    assert other.processing_class.get_vocab() == AutoTokenizer.from_pretrained(small_base).get_vocab()


def test_a_student_keeps_the_first_and_the_last_layer(small_base: Path, tmp_path: Path) -> None:
    from llm_pipeline.training.distillation import cut_layers
    from llm_pipeline_tests.training.conftest import SMALL

    deep = AutoModelForCausalLM.from_pretrained(small_base)
    cut_layers(small_base, 1, tmp_path / "one")
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert (SMALL.layers, one.config.num_hidden_layers) == (2, 1)
    torch.testing.assert_close(one.model.layers[0].mlp.up_proj.weight, deep.model.layers[0].mlp.up_proj.weight)


def test_the_same_seed_gives_the_same_weights_and_another_another(small_base: Path, tmp_path: Path) -> None:
    weights = []
    for i, seed in enumerate((0, 0, 1)):
        recipe = small("reward", small_base, f"seed={seed}", "max_steps=1")
        trainer = prepared(recipe, small_base, tmp_path / str(i))
        finish(trainer, recipe, tmp_path / str(i))
        weights.append(trainer.model.score.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rows_that_are_too_long_are_counted(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"prompt": "word " * 200, "chosen": "yes", "rejected": "no"}
    monkeypatch.setitem(ROWS, "dpo", [*ROWS["dpo"], long])
    messages: list[dict[str, Any]] = []
    prepared(small("dpo", small_base), small_base, tmp_path, messages)
    assert (messages[0]["examples"], messages[0]["too_long"]) == (16, 1)


def test_a_student_also_learns_from_answers_that_it_samples(small_base: Path, tmp_path: Path) -> None:
    recipe = small("distill", small_base, "distillation.on_policy=1", "distillation.new_tokens=4", "max_steps=2")
    trainer = prepared(recipe, small_base, tmp_path)
    sampled = []
    sample = trainer.generate_on_policy_outputs

    def spy(model: Any, inputs: dict[str, torch.Tensor], config: Any) -> Any:
        tokens, mask, labels = sample(model, inputs, config)
        sampled.append((labels != -100).sum(1))
        return tokens, mask, labels

    trainer.generate_on_policy_outputs = spy
    before = trainer.model.lm_head.weight.detach().clone()
    finish(trainer, recipe, tmp_path)
    assert len(sampled) == 2
    assert all(((lengths >= 1) & (lengths <= 4)).all() for lengths in sampled)
    assert not torch.equal(before, trainer.model.lm_head.weight)


def test_a_teacher_with_other_tokens_is_refused(small_base: Path, tmp_path: Path) -> None:
    prepared(small("pretrain", small_base), small_base, tmp_path)
    recipe = small("distill", small_base, f"distillation.teacher={tmp_path / 'start'}")
    with pytest.raises(ConfigError, match=r"its tokenizer has \d+ entries, .* expected the same vocabulary"):
        prepared(recipe, small_base, tmp_path / "student")
