"""Greedy answers and reference likelihoods of a local causal language model, in padded batches, the same on every run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError
from llm_pipeline.quiet import quiet

Messages = Sequence[Mapping[str, str]]
Asked = Messages | str
"""A conversation that ends with the question, or the beginning of a plain text (no chat template) to be continued."""
Progress = Callable[[int, int], None]
_CHOICES = 256
"""Choices that are read in one batch."""


@dataclass(frozen=True)
class Completion:
    """What a model said; `finished` tells whether it stopped by itself before the token limit."""

    text: str
    finished: bool
    tokens: int
    prompt_tokens: int = 0
    seconds: float | None = None
    """From the request to the whole answer; answers of one batch waited for one another."""


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood (nats) of a reference after its prompt, and over how many tokens."""

    nll: float
    tokens: int


def perplexity(likelihoods: Sequence[Likelihood]) -> float:
    """exp of the mean negative log-likelihood per token."""
    tokens = sum(item.tokens for item in likelihoods)
    return math.exp(min(50.0, sum(item.nll for item in likelihoods) / tokens)) if tokens else float("nan")


class Generator:
    """A model folder (or hub id) loaded for evaluation, in float32: batching then does not change an answer."""

    def __init__(self, model: Path | str, *, threads: int | None = None, batch_size: int = 64) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if isinstance(model, Path) and not (model / "config.json").is_file():
            raise InputError(f"{model}: not a model folder (it has no config.json)")
        quiet()
        if threads:
            torch.set_num_threads(threads)
        self.batch_size = batch_size
        self.tokenizer = AutoTokenizer.from_pretrained(str(model), padding_side="left", truncation_side="left")
        if not self.tokenizer.chat_template:
            raise InputError(f"{model}: its tokenizer has no chat template, so it cannot be asked")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32, trust_remote_code=False).to(device).eval()
        self.window = int(getattr(self.model.config, "max_position_embeddings", 2048))

    def cannot(self, need: str) -> str | None:
        """Why an output is not to be had, see `responder.Responder`; a local model can give all of them."""
        return None

    def answer(
        self, conversations: Sequence[Asked], *, max_new_tokens: int = 40, progress: Progress | None = None, batch_size: int | None = None
    ) -> list[Completion]:
        """One greedy completion per conversation, in their order; a prompt beyond the model's window loses its beginning."""
        prompts = [self._prompt(messages) for messages in conversations]
        answers: dict[int, Completion] = {}
        for batch in _by_length(prompts, batch_size or self.batch_size):
            texts = [prompts[i] for i in batch]
            started = time.perf_counter()
            completions = self._complete(texts, max_new_tokens)
            seconds = round(time.perf_counter() - started, 6)
            answers.update((i, replace(completion, seconds=seconds)) for i, completion in zip(batch, completions, strict=True))
            if progress:
                progress(len(answers), len(prompts))
        return [answers[i] for i in range(len(prompts))]

    def likelihoods(self, conversations: Sequence[Asked], references: Sequence[str]) -> list[Likelihood]:
        """How likely the model finds each reference as the next turn, its end token included, or as what follows a plain text."""
        pairs = [(self._prompt(asked), self._answered(asked, r)) for asked, r in zip(conversations, references, strict=True)]
        found: dict[int, Likelihood] = {}
        for batch in _by_length([full for _, full in pairs], self.batch_size):
            found.update(zip(batch, self._score([pairs[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(pairs))]

    def choices(self, conversations: Sequence[Asked], choices: Sequence[Sequence[str]]) -> list[tuple[Likelihood, ...]]:
        """How likely each choice is after its question; what the choices share is read once, however many they are."""
        return [self._choices(asked, listed) for asked, listed in zip(conversations, choices, strict=True)]

    def _choices(self, asked: Asked, choices: Sequence[str]) -> tuple[Likelihood, ...]:
        import torch

        full = [self.tokenizer(self._answered(asked, choice), add_special_tokens=False)["input_ids"] for choice in choices]
        before = len(self.tokenizer(self._prompt(asked), add_special_tokens=False)["input_ids"])
        cut = max(0, max(map(len, full)) - self.window)
        full, before = [ids[cut:] for ids in full], before - cut
        shared = min(before, _shared(full)) - 1
        if shared < 1:
            return tuple(self.likelihoods([asked] * len(choices), choices))
        found: list[Likelihood] = []
        with torch.inference_mode():
            start = self.model(input_ids=torch.tensor([full[0][:shared]], device=self.model.device), use_cache=True).past_key_values
            for first in range(0, len(full), _CHOICES):
                found += self._rest(start, [ids[shared:] for ids in full[first : first + _CHOICES]], shared, before - shared)
        return tuple(found)

    def _rest(self, start: Any, rest: Sequence[Sequence[int]], shared: int, first: int) -> list[Likelihood]:
        """Likelihoods of the tokens from number `first` on of each `rest`, all of which follow the `shared` tokens of the cache."""
        import copy

        import torch

        cache = copy.deepcopy(start)
        cache.batch_repeat_interleave(len(rest))
        width, device = max(map(len, rest)), self.model.device
        ids = torch.tensor([[*row, *[self.tokenizer.pad_token_id] * (width - len(row))] for row in rest], device=device)
        mask = torch.tensor([[1] * (shared + len(row)) + [0] * (width - len(row)) for row in rest], device=device)
        logits = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").tolist()
        return [Likelihood(round(sum(line[first - 1 : len(row) - 1]), 5), len(row) - first) for line, row in zip(losses, rest, strict=True)]

    def _answered(self, asked: Asked, answer: str) -> str:
        return asked + answer if isinstance(asked, str) else self._prompt([*asked, {"role": "assistant", "content": answer}])

    def _prompt(self, messages: Asked) -> str:
        if isinstance(messages, str):
            return messages
        ask = messages[-1]["role"] != "assistant"
        return self.tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=ask)

    def _complete(self, prompts: Sequence[str], max_new_tokens: int) -> list[Completion]:
        import torch

        room = self.window - max_new_tokens
        inputs = self.tokenizer(
            list(prompts), return_tensors="pt", padding=True, truncation=True, max_length=room, add_special_tokens=False
        )
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        with torch.inference_mode():
            output = self.model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, eos_token_id=end, pad_token_id=pad, use_cache=True
            )
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        read = inputs["attention_mask"].sum(1).tolist()
        return [replace(self._completion(tokens, end), prompt_tokens=n) for tokens, n in zip(new, read, strict=True)]

    def _completion(self, tokens: list[int], end: int) -> Completion:
        finished = end in tokens
        kept = tokens[: tokens.index(end)] if finished else tokens
        return Completion(self.tokenizer.decode(kept, skip_special_tokens=True).strip(), finished, len(kept))

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        import torch

        prompt_lengths = [len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt, _ in pairs]
        full = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for _, text in pairs]
        starts = [min(p, len(ids)) - max(0, len(ids) - self.window) for p, ids in zip(prompt_lengths, full, strict=True)]
        full = [ids[-self.window :] for ids in full]
        width = max(map(len, full))
        pad = self.tokenizer.pad_token_id
        device = self.model.device
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in full], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in full], device=device)
        wanted = torch.tensor(
            [[max(s, 1) <= i < len(row) for i in range(width)] for s, row in zip(starts, full, strict=True)], device=device
        )
        keep = width - max(1, min(starts)) + 1
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=keep).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, -logits.shape[1] :], reduction="none")
        wanted = wanted[:, -logits.shape[1] :]
        sums, counts = (losses * wanted).sum(1).tolist(), wanted.sum(1).tolist()
        return [Likelihood(round(nll, 5), int(tokens)) for nll, tokens in zip(sums, counts, strict=True)]


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with."""
    return next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))


def _by_length(texts: Sequence[str], size: int) -> Iterator[list[int]]:
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i), reverse=True)
    for start in range(0, len(order), size):
        yield order[start : start + size]
