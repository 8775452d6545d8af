"""Pretraining the embedded base model from nothing: a small Llama that can read an answer out of a given context.

The practice text is drawn from an endless stream of random worlds (:mod:`llm_pipeline.curation.support.practice`), with a
share of the interpreter's own documentation strings so that ordinary prose is not foreign. Sample `i` depends only on the
seed and `i`, so an interrupted run resumes on the same data, and the learning rate is constant until the last quarter, so
that a run can be made longer or shorter from any checkpoint before it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from llm_pipeline.curation.support.practice import practice
from llm_pipeline.training.chat import END, train_tokenizer


@dataclass(frozen=True)
class BaseRecipe:
    """Everything that decides the weights of the base model, apart from library versions and hardware."""

    seed: int = 0
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 4
    heads: int = 4
    sequence_length: int = 384
    batch_size: int = 10
    steps: int = 6500
    learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    decay_share: float = 0.25
    curriculum_steps: int = 2500
    answer_focus_from: int = 2700
    """From this step on, tokens outside answers count `context_weight` in the loss; before it all count the same."""
    context_weight: float = 0.15
    prose_share: float = 0.06
    tokenizer_samples: int = 4000


class PracticeBlocks(Dataset[dict[str, torch.Tensor]]):
    """Block `i`: practice conversations (and some prose), one after the other, up to `sequence_length` tokens."""

    def __init__(self, recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast, prose: Sequence[str]) -> None:
        self.recipe, self.tokenizer, self.prose = recipe, tokenizer, prose
        self._assistant, self._end = tokenizer.convert_tokens_to_ids(["<|assistant|>", END])

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch_size

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        difficulty = min(1.0, i / (self.recipe.curriculum_steps * self.recipe.batch_size))
        r = random.Random(f"{self.recipe.seed}/{i}")
        length = self.recipe.sequence_length
        ids: list[int] = []
        while len(ids) < length:
            ids += self._piece(r, difficulty)
        tokens = torch.tensor(ids[:length])
        focused = i >= self.recipe.answer_focus_from * self.recipe.batch_size
        weights = torch.tensor([1.0 if said or not focused else self.recipe.context_weight for said in self._said(ids[:length])])
        return {"input_ids": tokens, "labels": tokens.clone(), "weights": weights}

    def _said(self, ids: Sequence[int]) -> Iterator[bool]:
        """For each token, whether the assistant says it: its end token belongs to it, the role tag before it does not."""
        speaking = False
        for token in ids:
            yield speaking
            speaking = token == self._assistant or (speaking and token != self._end)

    def _piece(self, r: random.Random, difficulty: float) -> list[int]:
        if self.prose and r.random() < self.recipe.prose_share:
            return self.tokenizer.encode("<|text|>" + r.choice(self.prose)[:600] + "<|end|>")
        messages = practice(r, r.uniform(difficulty * 0.5, difficulty)).messages()
        return self.tokenizer.encode(self.tokenizer.apply_chat_template(messages, tokenize=False))


def practice_texts(recipe: BaseRecipe, prose: Sequence[str]) -> Iterator[str]:
    for i in range(recipe.tokenizer_samples):
        r = random.Random(f"tokenizer/{recipe.seed}/{i}")
        yield "\n".join(message["content"] for message in practice(r, r.random()).messages())
    yield from (text[:600] for text in prose)


def build_model(recipe: BaseRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def train_base(recipe: BaseRecipe, prose: Sequence[str], work: Path, *, resume: bool = False, **options: Any) -> Trainer:
    """Train tokenizer and model under `work` (checkpoints each tenth of the way); `options` go to `TrainingArguments`."""
    tokenizer = train_tokenizer(practice_texts(recipe, prose), recipe.vocab_size)
    arguments = TrainingArguments(
        **{
            "output_dir": str(work),
            "max_steps": recipe.steps,
            "per_device_train_batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate,
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": round(recipe.steps * recipe.decay_share), "min_lr_ratio": 0.02},
            "warmup_steps": recipe.warmup_steps,
            "weight_decay": 0.05,
            "adam_beta2": 0.98,
            "bf16": True,
            "use_cpu": not torch.cuda.is_available(),
            "seed": recipe.seed,
            "save_steps": max(1, recipe.steps // 20),
            "save_total_limit": 2,
            "logging_steps": max(1, min(50, recipe.steps // 20)),
            "report_to": [],
            "remove_unused_columns": False,
            "dataloader_num_workers": 0,
        }
        | options
    )
    trainer = _PracticeTrainer(
        model=build_model(recipe, tokenizer),
        args=arguments,
        train_dataset=PracticeBlocks(recipe, tokenizer, prose),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class _PracticeTrainer(Trainer):
    """Weighted next-token loss over the data set in its own order, which is the curriculum."""

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), inputs["labels"][:, 1:].flatten(), reduction="none")
        weights = inputs["weights"][:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)
