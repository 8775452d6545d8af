"""Knowledge distillation: a student learns the teacher's distribution over every token of an answer, not only the token."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import ConfigError
from llm_pipeline.training.adapters import load_model, load_tokenizer, peft_config
from llm_pipeline.training.arguments import arguments, callbacks, stop_early, tell
from llm_pipeline.training.bases import model_folder
from llm_pipeline.training.data import IGNORED, Collator, columns, encode_all
from llm_pipeline.training.interrupt import Report
from llm_pipeline.training.rows import Row

if TYPE_CHECKING:
    import torch

    from llm_pipeline.training.trainers import Job


def make(job: Job, tokenizer: Any, rows: Sequence[Row], validation: Sequence[Row], report: Report) -> tuple[Any, float]:
    """(GKDTrainer, mean tokens per row); TRL's other distillation trainer knows only sampled answers."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    recipe, plan = job.recipe, job.recipe.distillation
    teacher = load_teacher(job, tokenizer)
    examples, too_long = encode_all(rows, tokenizer, recipe.max_length)
    mean = tell(report, [len(e.tokens) for e in examples], rows=len(examples), too_long=too_long, room=recipe.max_length)
    held_out = encode_all(validation, tokenizer, recipe.max_length)[0] if validation else []
    settings = GKDConfig(
        **arguments(job, len(examples)),
        **stop_early(job, bool(held_out)),
        max_length=recipe.max_length,
        lmbda=plan.on_policy,
        beta=plan.divergence,
        temperature=1.0,
        max_new_tokens=plan.new_tokens,
    )
    trainer = GKDTrainer(
        model=load_model(recipe, job.base),
        teacher_model=teacher,
        args=settings,
        train_dataset=Dataset.from_list([columns([example]) for example in examples]),
        eval_dataset=Dataset.from_list([columns([example]) for example in held_out]) if held_out else None,
        processing_class=tokenizer,
        data_collator=WithPrompts(tokenizer.pad_token_id, packed=False),
        callbacks=callbacks(job, bool(held_out)),
        peft_config=peft_config(recipe),
    )
    return trainer, mean


def load_teacher(job: Job, tokenizer: Any) -> Any:
    """The frozen teacher; it must read the same tokens as the student."""
    from transformers import AutoModelForCausalLM

    folder = model_folder(job.recipe.distillation.teacher, "distillation.teacher")
    theirs = load_tokenizer(folder).get_vocab()
    if theirs != tokenizer.get_vocab():
        raise ConfigError(
            f"distillation.teacher {folder}: its tokenizer has {len(theirs)} entries, that of {job.base} {len(tokenizer)}; "
            "expected the same vocabulary, since the two models are compared token by token"
        )
    return AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="sdpa", dtype="auto").eval()


@dataclass(frozen=True)
class WithPrompts(Collator):
    """Adds what precedes the last answer, padded on the left, from which the student samples its own."""

    def __call__(self, features: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        import torch

        prompts = [prompt_of(feature["input_ids"], feature["labels"]) for feature in features]
        longest = max(map(len, prompts))
        padded = torch.tensor([[self.pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return super().__call__(features) | {"prompts": padded, "prompt_attention_mask": mask}


def prompt_of(tokens: Sequence[int], labels: Sequence[int]) -> list[int]:
    """The tokens before the last answer."""
    end = max(i for i, label in enumerate(labels) if label != IGNORED)
    start = max((i + 1 for i in range(end) if labels[i] == IGNORED), default=0)
    return list(tokens[:start])


def cut_layers(base: Path, layers: int, out: Path) -> None:
    """Write the student of `layers` evenly spaced layers of `base`, first and last included (Sanh et al. 2019, arXiv:1910.01108)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(base), dtype="auto")
    have = len(model.model.layers)
    if not 1 <= layers < have:
        raise ConfigError(f"distillation.layers {layers}: {base} has {have} layers, expected 1 to {have - 1}, or 0 for all")
    chosen = [round(i * (have - 1) / max(1, layers - 1)) for i in range(layers)]
    model.model.layers = torch.nn.ModuleList([model.model.layers[i] for i in chosen])
    for i, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = i
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in chosen]
    model.save_pretrained(out)
    load_tokenizer(base).save_pretrained(out)
