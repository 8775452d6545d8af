"""Whether what will be served is what was trained: log-probabilities of the same tokens, as trained, merged, and from the engine.

Merged weights are stored in bf16 (8 bits of mantissa), so each may be off by 1 in 512. On the shipped model after the demo's tuning
that moved a token's log-probability by 0.003 nats on average and 0.04 at worst. A scale of the adapter that is wrong by a tenth moved
it by 0.037 and 0.44, a lost adapter by 2.8 and 19. The tolerances lie between what rounding does and the smallest of these mistakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.quiet import quiet
from llm_pipeline.serving.engine.parity import QUESTIONS

MEAN_TOLERANCE, LARGEST_TOLERANCE = 0.03, 0.3
"""Nats per token, on average over all prompts and at the worst token."""
Scored = tuple[list[int], list[float]]
"""The tokens of an answer, and the log-probability of each."""


@dataclass(frozen=True)
class Difference:
    """How far one way to run the model is from the model as it was trained."""

    name: str
    tokens: int
    mean: float
    largest: float
    equal_answers: int
    prompts: int

    @property
    def holds(self) -> bool:
        return self.tokens > 0 and self.mean <= MEAN_TOLERANCE and self.largest <= LARGEST_TOLERANCE


def compare_ways(base: Path, trained: Path, merged: Path, questions: Sequence[str] = QUESTIONS, max_tokens: int = 16) -> list[Difference]:
    """The merged folder in fp32, in bf16, and behind the engine's batching, each against base + adapter as they were trained.

    `trained` holds `adapter/`, or `model/` where all weights were trained. Every answer is greedy; the log-probabilities compared
    are those of the tokens that the other way chose.
    """
    import torch

    reference, tokenizer = _load_trained(base, trained)
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, tokenize=True, return_dict=False)
        for q in questions
    ]
    own = [_answer(reference, tokenizer, prompt, max_tokens) for prompt in prompts]
    ways = {
        "merged, float32": _run(merged, torch.float32, prompts, max_tokens),
        "merged, bfloat16": _run(merged, torch.bfloat16, prompts, max_tokens),
        "served, float32": asyncio.run(_serve(merged, prompts, max_tokens)),
    }
    return [_difference(name, reference, prompts, own, found) for name, found in ways.items()]


def _load_trained(base: Path, trained: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet()
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    if not (trained / "adapter").is_dir():
        return AutoModelForCausalLM.from_pretrained(str(trained / "model"), **options).eval(), AutoTokenizer.from_pretrained(str(base))
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(str(base), **options)
    return PeftModel.from_pretrained(model, str(trained / "adapter")).eval(), AutoTokenizer.from_pretrained(str(base))


def _run(folder: Path, dtype: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[Scored]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, use_safetensors=True, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    answers = [_answer(model, tokenizer, prompt, max_tokens) for prompt in prompts]
    return [(answer, _logprobs(model, prompt, answer)) for prompt, answer in zip(prompts, answers, strict=True)]


async def _serve(folder: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[Scored]:
    """All prompts at once through the engine's continuous batching, as under traffic."""
    from llm_pipeline.serving.engine.batching import Batcher, Limits

    batcher = Batcher(folder, Limits(kv_megabytes=32))
    batcher.start()
    try:

        async def ask(prompt: Sequence[int]) -> Scored:
            async with aclosing(batcher.generate(prompt, max_tokens)) as results:
                async for tokens in results:
                    last = tokens
            return list(last.ids), list(last.logprobs)[: len(last.ids)]

        return await asyncio.gather(*map(ask, prompts))
    finally:
        batcher._manager.stop(block=True)


def _answer(model: Any, tokenizer: Any, prompt: Sequence[int], max_tokens: int) -> list[int]:
    import torch

    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )
    return [token for token in out[0, len(prompt) :].tolist() if token != tokenizer.eos_token_id]


def _logprobs(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    import torch

    if not answer:
        return []
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
    found: list[float] = logits.log_softmax(-1)[range(len(answer)), list(answer)].tolist()
    return found


def _difference(
    name: str, reference: Any, prompts: Sequence[Sequence[int]], own: Sequence[list[int]], found: Sequence[Scored]
) -> Difference:
    gaps = [
        abs(theirs - mine)
        for prompt, (answer, values) in zip(prompts, found, strict=True)
        for mine, theirs in zip(_logprobs(reference, prompt, answer), values, strict=True)
    ]
    equal = sum(answer == mine for (answer, _), mine in zip(found, own, strict=True))
    return Difference(name, len(gaps), sum(gaps) / max(1, len(gaps)), max(gaps, default=0.0), equal, len(prompts))
