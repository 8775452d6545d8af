"""An address as a model of lm-evaluation-harness, over our own client: probed before it scores, and without its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM  # type: ignore[import-untyped]

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.endpoint import Endpoint

_MAX_TOKENS = 256
"""Of an answer whose task does not say, as the harness has it."""


class EndpointLM(LM):  # type: ignore[misc]
    """Generation by chat; log-likelihoods by an echo, whose text offsets tell where the continuation begins."""

    tokenizer_name = ""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self.endpoint = endpoint

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            settings = request.args[1]
            longest = next((settings[name] for name in ("max_tokens", "max_gen_toks") if settings.get(name)), _MAX_TOKENS)
            groups.setdefault(int(longest), []).append(i)
        answers = [""] * len(requests)
        for longest, chosen in groups.items():
            found = self.endpoint.answer([_messages(requests[i].args[0]) for i in chosen], max_new_tokens=longest)
            for i, completion in zip(chosen, found, strict=True):
                answers[i] = _until(completion.text, requests[i].args[1])
        return answers

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        scored = self.endpoint.scores([request.args for request in requests])
        return [(-likelihood.nll, greedy) for likelihood, greedy in scored]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        raise InputError(f"{self.endpoint.base}: perplexity of whole texts is measured on a model's folder only")


def _messages(context: str) -> list[dict[str, str]]:
    """Back from `apply_chat_template`."""
    return [dict(message) for message in json.loads(context)]


def _until(text: str, settings: Mapping[str, Any]) -> str:
    stops = settings.get("until") or ()
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text
