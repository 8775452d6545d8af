"""Each row of a batch is decided by its own parameters, and by nothing else."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.generation.logits_process import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from llm_pipeline.serving.engine.generation import Sampling
from llm_pipeline.serving.engine.sampling import Row, Sampler, narrow

SIZE = 600


def scores(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def step(rows: list[Row], raw: torch.Tensor) -> list[int]:
    """What the engine does in a step: the sampler, then the argmax of what it leaves."""
    sampler = Sampler()
    requests: list[Any] = [SimpleNamespace(state=SimpleNamespace(logit_processor_kwargs={"row": row})) for row in rows]
    left: list[int] = sampler(raw.clone(), sampler.prepare_tensor_args(requests)).argmax(-1).tolist()
    return left


@pytest.mark.parametrize(
    ("sampling", "reference"),
    [
        (Sampling(top_k=7), TopKLogitsWarper(7)),
        (Sampling(top_p=0.8), TopPLogitsWarper(0.8)),
        (Sampling(top_p=0.9999), TopPLogitsWarper(0.9999)),
        (Sampling(min_p=0.05), MinPLogitsWarper(0.05)),
    ],
)
def test_what_is_left_out_is_what_transformers_leaves_out(sampling: Sampling, reference: Any) -> None:
    for row in scores(20):
        assert torch.equal(narrow(row.clone(), sampling), reference(None, row.clone().unsqueeze(0))[0])


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    raw = scores(1)
    prompt = [int(raw.argmax()), 5, 5, 9]
    expected = int(RepetitionPenaltyLogitsProcessor(50.0)(torch.tensor([prompt]), raw.clone())[0].argmax())
    assert step([Row(Sampling(repetition_penalty=50.0), prompt)], raw) == [expected] != [prompt[0]]


def test_presence_and_frequency_count_the_answer_only() -> None:
    raw = torch.zeros(1, 4)
    raw[0, :2] = torch.tensor([3.0, 2.0])
    present, often = (Row(Sampling(presence_penalty=1.5), [0, 0]), Row(Sampling(frequency_penalty=0.6), [0]))
    assert [step([present], raw)[0] for _ in range(4)] == [0, 1, 0, 0]
    assert [step([often], raw)[0] for _ in range(5)] == [0, 0, 1, 0, 1]


def test_a_seed_gives_the_same_answer_whoever_else_is_in_the_batch() -> None:
    mine = Sampling(temperature=1.3, top_p=0.95, seed="7/0")

    def answer(neighbours: int, at: int) -> list[int]:
        rows = [Row(Sampling(temperature=2.0, top_k=50, presence_penalty=1.0)) for _ in range(neighbours)]
        rows.insert(at, Row(mine))
        found = []
        for i in range(12):
            raw = torch.cat([scores(neighbours, 100 + i)[:at], scores(1, i), scores(neighbours, 200 + i)[at:]])
            found.append(step(rows, raw)[at])
        return found

    alone = answer(0, 0)
    assert answer(5, 3) == answer(9, 0) == alone
    assert len(set(alone)) > 1
    other = Row(replace(mine, seed="8/0"))
    assert [step([other], scores(1, i))[0] for i in range(12)] != alone


def test_draws_follow_the_distribution() -> None:
    raw = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    row = Row(Sampling(temperature=1.0, seed="1"))
    counts = Counter(step([row], raw)[0] for _ in range(4000))
    for i, expected in enumerate(raw[0].softmax(-1).tolist()):
        assert abs(counts[i] / 4000 - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_log_probabilities_are_the_models_own_also_of_sampled_and_penalised_rows() -> None:
    raw = scores(3)
    rows = [Row(Sampling(logprobs=2)), Row(Sampling(temperature=5.0, seed="1", logprobs=0)), Row(Sampling())]
    rows[1] = Row(replace(rows[1].sampling, presence_penalty=2.0))
    chosen = step(rows, raw)
    expected = raw.log_softmax(-1)
    assert rows[0].logprobs == [pytest.approx(float(expected[0].max()))]
    assert [i for i, _ in rows[0].top[0]] == raw[0].topk(2).indices.tolist()
    assert rows[1].logprobs == [pytest.approx(float(expected[1, chosen[1]]))]
    assert rows[1].top == rows[2].logprobs == []
    assert chosen[2] == int(raw[2].argmax())


def test_a_greedy_batch_is_left_untouched() -> None:
    raw = scores(4)
    sampler = Sampler()
    sampler._rows = [Row(Sampling()) for _ in range(4)]
    assert sampler(raw, torch.empty(0)) is raw


class Refusing:
    """A grammar that allows nothing."""

    def compute_bitmask(self) -> bytes:
        return bytes(SIZE // 8 + 1)

    def consume_token(self, sampled_token: int) -> bool:
        return False

    def is_stopped(self) -> bool:
        return False


def test_a_grammar_without_a_way_on_fails_its_own_request_only() -> None:
    raw = scores(2)
    rows = [Row(Sampling(temperature=1.0), matcher=Refusing()), Row(Sampling())]
    assert step(rows, raw)[1] == int(raw[1].argmax())
    assert rows[0].error
    assert rows[1].error is None
