"""Supervised tuning and (continued) pretraining: next-token loss on packed rows, or on single ones under virtual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_pipeline.training.adapters import load_model, peft_config
from llm_pipeline.training.arguments import arguments, callbacks, stop_early, tell
from llm_pipeline.training.data import Collator, Example, columns, encode_all, encode_texts, pack
from llm_pipeline.training.interrupt import Report
from llm_pipeline.training.recipe import Recipe
from llm_pipeline.training.rows import Row

if TYPE_CHECKING:
    from llm_pipeline.training.trainers import Job


def make(job: Job, tokenizer: Any, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> tuple[Any, float]:
    """(SFTTrainer, mean tokens per row)."""
    from datasets import Dataset
    from trl import SFTConfig

    recipe = job.recipe
    examples, too_long = encode_rows(rows, tokenizer, recipe)
    packed = arrange(examples, recipe)
    mean = tell(report, [len(e.tokens) for e in examples], rows=len(packed), too_long=too_long, room=recipe.max_length)
    held_out = arrange(encode_rows(validation, tokenizer, recipe)[0], recipe) if validation else []
    settings = SFTConfig(
        **arguments(job, len(packed)),
        **stop_early(job, bool(held_out)),
        max_length=recipe.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = _trainer_of(recipe)(
        model=load_model(recipe, job.base),
        args=settings,
        train_dataset=Dataset.from_list([columns(row) for row in packed]),
        eval_dataset=Dataset.from_list([columns(row) for row in held_out]) if held_out else None,
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id, packed=not recipe.virtual),
        callbacks=callbacks(job, bool(held_out)),
        peft_config=peft_config(recipe),
    )
    return trainer, mean


def _trainer_of(recipe: Recipe) -> Any:
    """TRL's trainer; on a CPU it trains by the model's own loss, since TRL's, which saves memory, takes a fifth of the time there."""
    from transformers import Trainer
    from trl import SFTTrainer

    class PlainLossTrainer(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            if not self.model.training:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            inputs["use_cache"] = False
            return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    return PlainLossTrainer if recipe.device == "cpu" else SFTTrainer


def encode_rows(rows: Sequence[Row], tokenizer: Any, recipe: Recipe) -> tuple[list[Example], int]:
    """The examples, and how many conversations were left out as too long."""
    if recipe.method == "pretrain":
        return encode_texts([row["text"] for row in rows], tokenizer, recipe.max_length), 0
    return encode_all(rows, tokenizer, recipe.max_length)


def arrange(examples: Sequence[Example], recipe: Recipe) -> list[list[Example]]:
    return [[example] for example in examples] if recipe.virtual else pack(examples, recipe.max_length, recipe.seed)
