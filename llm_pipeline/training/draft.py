"""Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192): a small draft model proposes, the model checks many tokens at once.

Under greedy decoding the answers are those of the model alone, whatever the draft is worth; it decides only the speed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import ConfigError

REPEATS = 3


@dataclass(frozen=True)
class Speculation:
    """What a draft was worth on some prompts."""

    prompts: int
    tokens: int
    identical: int
    """Prompts whose answer was the same, token by token, with the draft and without."""
    proposed: int
    accepted: int
    passes: int
    """Forward passes of the model itself; without a draft it needs one for every token."""
    tokens_per_second: float
    tokens_per_second_alone: float

    @property
    def acceptance(self) -> float:
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def speed_up(self) -> float:
        return self.tokens_per_second / self.tokens_per_second_alone

    def row(self) -> dict[str, float | int]:
        return {**vars(self), "acceptance": round(self.acceptance, 4), "speed_up": round(self.speed_up, 3)}


class _Passes:
    """Counts the forward passes of a model, and the tokens that a pass sees beyond the first new one: those proposed to it."""

    def __init__(self) -> None:
        self.passes = self.proposed = self.known = 0

    def begin(self, prompt: int) -> None:
        self.known = prompt

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.passes += 1
        seen = int(kwargs["input_ids"].shape[1])
        self.proposed += seen - (self.known or 1)
        self.known = 0


def speculate(model: Path, draft: Path, questions: Sequence[str], new_tokens: int = 32) -> Speculation:
    """Answer every question greedily with and without the draft model, and count what was proposed and what was kept."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True)
    theirs = AutoTokenizer.from_pretrained(str(draft), local_files_only=True)
    if tokenizer.get_vocab() != theirs.get_vocab():
        raise ConfigError(f"draft {draft}: its vocabulary of {len(theirs)} entries is not that of {model} ({len(tokenizer)})")
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    target = AutoModelForCausalLM.from_pretrained(str(model), **options).eval()
    small = AutoModelForCausalLM.from_pretrained(str(draft), **options).eval()
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_tensors="pt", return_dict=True)[
            "input_ids"
        ]
        for q in questions
    ]
    counter = _Passes()
    alone, seconds_alone = _answers(target, None, prompts, new_tokens, tokenizer.pad_token_id)
    hook = target.register_forward_pre_hook(counter, with_kwargs=True)
    together, _ = _answers(target, small, prompts, new_tokens, tokenizer.pad_token_id, counter)
    hook.remove()
    times = [_answers(target, small, prompts, new_tokens, tokenizer.pad_token_id)[1] for _ in range(REPEATS)]
    seconds_alone = statistics.median(
        [seconds_alone, *(_answers(target, None, prompts, new_tokens, tokenizer.pad_token_id)[1] for _ in range(2))]
    )
    tokens = sum(map(len, alone))
    return Speculation(
        prompts=len(prompts),
        tokens=tokens,
        identical=sum(a == b for a, b in zip(alone, together, strict=True)),
        proposed=counter.proposed,
        accepted=max(0, sum(map(len, together)) - counter.passes),
        passes=counter.passes,
        tokens_per_second=round(tokens / statistics.median(times), 1),
        tokens_per_second_alone=round(tokens / seconds_alone, 1),
    )


def _answers(
    target: Any, draft: Any | None, prompts: Sequence[Any], new_tokens: int, pad: int, counter: _Passes | None = None
) -> tuple[list[list[int]], float]:
    """The new tokens of every prompt, and the seconds that they took."""
    import torch

    found, started = [], time.perf_counter()
    for prompt in prompts:
        if counter:
            counter.begin(prompt.shape[1])
        with torch.inference_mode():
            output = target.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=pad,
                use_cache=True,
                **({"assistant_model": draft} if draft is not None else {}),
            )
        found.append(output[0, prompt.shape[1] :].tolist())
    return found, time.perf_counter() - started
