"""Learning from what people prefer: DPO and a reward model from pairs of answers, KTO from answers that were liked or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import InputError
from llm_pipeline.training.adapters import load_model, peft_config
from llm_pipeline.training.arguments import arguments, callbacks, stop_early, tell
from llm_pipeline.training.interrupt import Report
from llm_pipeline.training.rows import COLUMNS, Row

if TYPE_CHECKING:
    from llm_pipeline.training.trainers import Job


def make_dpo(job: Job, tokenizer: Any, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> tuple[Any, float]:
    """(DPOTrainer, mean tokens per pair). The reference is the base itself: its copy, or the model without its adapter."""
    from trl import DPOConfig, DPOTrainer

    return _make(DPOTrainer, DPOConfig, {"beta": job.recipe.preference.beta}, job, tokenizer, rows, validation, report)


def make_kto(job: Job, tokenizer: Any, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> tuple[Any, float]:
    """(KTOTrainer, mean tokens per answer)."""
    from trl import KTOConfig, KTOTrainer

    weights = job.recipe.preference
    options = {"beta": weights.beta, "desirable_weight": weights.desirable_weight, "undesirable_weight": weights.undesirable_weight}
    return _make(KTOTrainer, KTOConfig, options, job, tokenizer, rows, validation, report)


def make_reward(job: Job, tokenizer: Any, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> tuple[Any, float]:
    """(RewardTrainer, mean tokens per pair): the loss of Bradley and Terry on the two scores (Ouyang et al. 2022, arXiv:2203.02155)."""
    from trl import RewardConfig, RewardTrainer

    return _make(RewardTrainer, RewardConfig, {}, job, tokenizer, rows, validation, report)


def _make(
    trainer: Any,
    config: Any,
    options: dict[str, Any],
    job: Job,
    tokenizer: Any,
    rows: Sequence[Row],
    validation: Sequence[Row],
    report: Report,
) -> tuple[Any, float]:
    from datasets import Dataset

    recipe = job.recipe
    kept, lengths = _fitting(rows, tokenizer, recipe.max_length)
    if not kept:
        raise InputError(f"{job.data}: all {len(rows)} rows are longer than max_length = {recipe.max_length} tokens")
    mean = tell(report, lengths, rows=len(kept), too_long=len(rows) - len(kept), room=max(lengths))
    held_out, _ = _fitting(validation, tokenizer, recipe.max_length)
    held_out = held_out[: len(held_out) // recipe.batch_size * recipe.batch_size] or held_out  # TRL's accuracy is a mean over batches
    wanted = COLUMNS[recipe.method]
    train, test = ([{name: row[name] for name in wanted} for row in part] for part in (kept, held_out))
    settings = config(**arguments(job, len(kept)), **stop_early(job, bool(test)), max_length=recipe.max_length, **options)
    made = trainer(
        model=load_model(recipe, job.base),
        args=settings,
        train_dataset=Dataset.from_list(train),
        eval_dataset=Dataset.from_list(test) if test else None,
        processing_class=tokenizer,
        callbacks=callbacks(job, bool(test)),
        peft_config=peft_config(recipe),
    )
    return made, mean


def _fitting(rows: Sequence[Row], tokenizer: Any, length: int) -> tuple[list[Row], list[int]]:
    """The rows whose answers all fit into `length` tokens, and how many tokens each has (a cut answer would teach not to stop)."""
    kept, lengths = [], []
    for row in rows:
        answers = [row[name] for name in ("chosen", "rejected", "completion") if name in row]
        sizes = [
            len(tokenizer.apply_chat_template(row["prompt"] + answer, tokenize=True, return_dict=True)["input_ids"]) for answer in answers
        ]
        if max(sizes) <= length:
            kept.append(row)
            lengths.append(sum(sizes))
    return kept, lengths
