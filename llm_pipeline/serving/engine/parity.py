"""Whether the served model is the trained one: the same greedy answers, with the same log-probabilities, over the wire."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import EndpointError

QUESTIONS = (
    "What is the monthly fee of the Everyday Account?",
    "How much does a replacement card cost?",
    "When is the help desk open?",
    "Which documents do I need for a loan?",
    "What is the limit for transfers?",
    "How long does an application take?",
    "Hi, I have a Travel Card. What is its fee per month?",
    "Can you tell me the interest rate of the Savings Account?",
)
"""Asked when no evaluation suite is there."""


@dataclass(frozen=True)
class Parity:
    """How many greedy answers were equal token by token, and the largest difference of a token's log-probability."""

    prompts: int
    equal: int
    tokens: int
    largest_difference: float

    def holds(self, tolerance: float) -> bool:
        return self.prompts > 0 and self.equal == self.prompts and self.largest_difference <= tolerance


def compare(model: Path, url: str, questions: Sequence[str], max_tokens: int = 24) -> Parity:
    """Ask the engine at `url` each question, then score its tokens by the model in `model` as transformers runs it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    trained = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, use_safetensors=True, local_files_only=True).eval()
    equal, tokens, largest = 0, 0, 0.0
    for question in questions:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
        served = [entry for entry in _served(url, messages, max_tokens) if _token_id(entry) != tokenizer.eos_token_id]
        with torch.inference_mode():
            alone = trained.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            answer = [i for i in alone[0, prompt.shape[1] :].tolist() if i != tokenizer.eos_token_id]
            ids = [_token_id(entry) for entry in served]
            if ids:
                logits = trained(torch.cat([prompt, torch.tensor([ids])], 1)).logits[0, prompt.shape[1] - 1 : -1].float()
                expected = logits.log_softmax(-1)[range(len(ids)), ids].tolist()
                largest = max(largest, *(abs(a - entry["logprob"]) for a, entry in zip(expected, served, strict=True)))
        equal, tokens = equal + (ids == answer), tokens + len(ids)
    return Parity(len(questions), equal, tokens, largest)


def _served(url: str, messages: list[dict[str, str]], max_tokens: int) -> list[dict[str, Any]]:
    """The tokens of an answer with their ids: our worker gives them with the log-probabilities, vLLM in place of texts, when asked to."""
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "logprobs": True}
    found = _entries(url, body)
    return found if not found or "token_id" in found[0] else _entries(url, body | {"return_tokens_as_token_ids": True})


def _entries(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return list(json.load(reply)["choices"][0]["logprobs"]["content"])


def _token_id(entry: dict[str, Any]) -> int:
    found = entry.get("token_id", str(entry["token"]).removeprefix("token_id:"))
    if not str(found).isdecimal():
        raise EndpointError(f"parity: the engine gives the token {found!r}, expected its id: it cannot be compared to the model")
    return int(found)
