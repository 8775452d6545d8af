"""How the next token of each request in a batch is chosen, each by its own parameters.

A plain greedy row costs nothing here: the batch's argmax decides. Every other row is decided one by one: penalties, grammar, temperature,
top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024), then a draw by inverting the cumulative distribution at a number of the
request's own generator, so that its answer depends on its seed and never on its neighbours.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

from llm_pipeline.serving.engine.generation import Sampling

COLDEST = 1e-4
HEAD = 256
"""Tokens looked at first for top-p; the whole vocabulary is sorted only when they do not reach it."""


class Matcher(Protocol):
    """What a grammar allows next (llguidance's LLMatcher)."""

    def compute_bitmask(self) -> bytes: ...
    def consume_token(self, sampled_token: int) -> bool: ...
    def is_stopped(self) -> bool: ...


@dataclass
class Row:
    """One request's state while it is generated; written by the generation thread, read by the event loop."""

    sampling: Sampling
    prompt: Sequence[int] = ()
    matcher: Matcher | None = None
    adapter: str | None = None
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    ended: int | None = None
    """Number of tokens after which the grammar was complete."""
    error: str | None = None

    def __post_init__(self) -> None:
        self.plain = self.sampling.temperature == 0 and not self.sampling.penalises and self.matcher is None
        self._random = random.Random(self.sampling.seed)
        self._made: Counter[int] = Counter()
        self._asked = frozenset(self.prompt)

    def __deepcopy__(self, memo: Any) -> Row:
        return self  # a request that is set back and started again goes on with its state

    def note(self, token: int) -> None:
        """Count the token that was drawn, and move the grammar on."""
        self._made[token] += 1
        if self.matcher is None or self.ended is not None or self.error:
            return
        if not self.matcher.consume_token(token):
            self.error = "no token of this vocabulary fits the grammar"
        elif self.matcher.is_stopped():
            self.ended = self._made.total()

    def draw(self, scores: torch.Tensor) -> int:
        """The next token of this row, from its raw scores (changed in place)."""
        if self.sampling.penalises:
            self._penalise(scores)
        if self.matcher is not None:
            self._constrain(scores, self.matcher)
        if self.sampling.temperature == 0:
            return int(scores.argmax())
        probabilities = narrow(scores.div_(max(self.sampling.temperature, COLDEST)), self.sampling).softmax(-1).double().cumsum(-1)
        at = self._random.random() * float(probabilities[-1])
        return min(int(torch.searchsorted(probabilities, at, right=True)), len(probabilities) - 1)

    def _penalise(self, scores: torch.Tensor) -> None:
        """Repetition as in CTRL (Keskar et al. 2019), over prompt and answer; presence and frequency as OpenAI's, over the answer."""
        if self.sampling.repetition_penalty != 1:
            seen = torch.tensor(list(self._asked | self._made.keys()), dtype=torch.long)
            found = scores[seen]
            scores[seen] = torch.where(found > 0, found / self.sampling.repetition_penalty, found * self.sampling.repetition_penalty)
        if self._made:
            made = torch.tensor(list(self._made), dtype=torch.long)
            counts = torch.tensor(list(self._made.values()), dtype=scores.dtype)
            scores[made] -= self.sampling.presence_penalty + self.sampling.frequency_penalty * counts

    def _constrain(self, scores: torch.Tensor, matcher: Matcher) -> None:
        if self.ended is not None or self.error:
            return
        bits = torch.frombuffer(bytearray(matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = ((bits.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1).view(-1)[: len(scores)].bool()
        scores[: len(allowed)].masked_fill_(~allowed, -math.inf)
        scores[len(allowed) :] = -math.inf


def narrow(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Leave out (-inf) what top-k, top-p and min-p exclude from one row of scores that the temperature has been applied to."""
    if 0 < sampling.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], -math.inf)
    if sampling.top_p < 1:
        likely, order = scores.softmax(-1).topk(min(HEAD, len(scores)))
        if float(likely.sum()) < sampling.top_p and len(likely) < len(scores):
            likely, order = scores.softmax(-1).sort(descending=True)
        kept = order[likely.cumsum(-1) - likely < sampling.top_p]
        scores = torch.full_like(scores, -math.inf).index_copy_(0, kept, scores[kept])
    if sampling.min_p > 0:
        scores = scores.masked_fill(scores < scores.max() + math.log(sampling.min_p), -math.inf)
    return scores


class Sampler(ContinuousBatchingLogitsProcessor):
    """Decides the rows that are not plain by leaving the argmax no choice, and notes the log-probabilities that were asked for."""

    supported_kwargs: dict[str, type] = {"row": Row}  # noqa: RUF012  (declared so by the base class)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        self._rows = [request.state.logit_processor_kwargs["row"] for request in requests_with_new_token]
        return torch.empty(0, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        busy = [i for i, row in enumerate(self._rows) if not row.plain]
        noted = [i for i, row in enumerate(self._rows) if row.sampling.logprobs is not None]
        raw = scores[noted].log_softmax(-1) if noted else None
        for i in busy:
            token = self._rows[i].draw(scores[i])
            scores[i, token] = math.inf
            self._rows[i].note(token)
        if raw is not None:
            _note_logprobs([self._rows[i] for i in noted], raw, scores[noted].argmax(-1))
        return scores


def _note_logprobs(rows: Sequence[Row], raw: torch.Tensor, chosen: torch.Tensor) -> None:
    """The model's own log-probabilities, before any parameter of the request changed them."""
    values = raw.gather(1, chosen.unsqueeze(-1)).squeeze(-1).tolist()
    most = max(row.sampling.logprobs or 0 for row in rows)
    best = raw.topk(most) if most else None
    for i, row in enumerate(rows):
        row.logprobs.append(values[i])
        if best is not None and (wanted := row.sampling.logprobs or 0):
            row.top.append(list(zip(best.indices[i, :wanted].tolist(), best.values[i, :wanted].tolist(), strict=True)))


def sampler() -> ContinuousBatchingLogitsProcessorList:
    """What the manager is given in place of processors that its first request would have frozen."""
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([]), per_request_processors=False)
    processors.logits_processor = LogitsProcessorList([Sampler()])
    processors.tensors_required, processors.do_processing = 1, True
    processors._retrieve_processors_kwargs()
    return processors
