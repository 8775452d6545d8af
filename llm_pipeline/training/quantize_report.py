"""What smaller models cost and save: size, speed, and quality on the same questions as the model that they come from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation.compare import Interval, paired_difference
from llm_pipeline.store import read_jsonl
from llm_pipeline.training.quantize import folder_megabytes

if TYPE_CHECKING:
    from llm_pipeline.evaluation.generate import Generator

NEW_TOKENS, BATCH, REPEATS = 32, 16, 3
Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """A user's turn, and the answer that counts as right."""

    question: str
    answer: str


@dataclass(frozen=True)
class Measured:
    """One model; the changes are against the first of a comparison, question by question, with 90% intervals."""

    name: str
    disk_megabytes: float
    memory_megabytes: float
    """Weights and buffers, as they are computed with."""
    tokens_per_second: float
    """Greedy, one request at a time."""
    tokens_per_second_batch: float
    """Greedy, a batch of 16."""
    exact_match: float | None = None
    exact_match_change: Interval | None = None
    nll: float | None = None
    """Mean negative log-likelihood of a right answer, in nats per token."""
    nll_change: Interval | None = None

    def row(self) -> dict[str, Any]:
        """The same as plain numbers and words for a table."""
        return {key: str(value) if isinstance(value, Interval) else value for key, value in vars(self).items()}

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def loses(self, margin: float) -> bool:
        """Whether exact match surely fell by more than `margin`: the whole interval lies below."""
        return self.exact_match_change is not None and self.exact_match_change.high < -margin


def compare_models(models: Mapping[str, Path], questions: Sequence[Question], say: Say = lambda _: None) -> list[Measured]:
    """Measure every model; the first is what the others are compared with. Without questions only size and speed are measured."""
    from llm_pipeline.evaluation.generate import Generator

    found: list[Measured] = []
    scores: list[tuple[list[float], list[float]]] = []
    for name, folder in models.items():
        generator = Generator(folder)
        slow, fast = (_speed(generator, batch) for batch in (1, BATCH))
        measured = Measured(
            name,
            round(folder_megabytes(folder), 2),
            round(float(generator.model.get_memory_footprint()) / 1e6, 2),
            round(slow, 1),
            round(fast, 1),
            **_quality(generator, questions, scores),
        )
        say(f"{name}: {measured.disk_megabytes} MB, {measured.tokens_per_second} tokens/s, exact match {measured.exact_match}")
        found.append(measured)
    return found


def _speed(generator: Generator, batch: int) -> float:
    """New tokens a second, the median of a few runs of the same length."""
    import torch

    device = generator.model.device
    prompt = torch.arange(5, 37, device=device)[None].repeat(batch, 1)
    options = {
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "pad_token_id": generator.tokenizer.pad_token_id,
    }
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        with torch.inference_mode():
            generator.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        seconds.append(time.perf_counter() - started)
    return batch * NEW_TOKENS / statistics.median(seconds[1:])


def _quality(generator: Generator, questions: Sequence[Question], scores: list[tuple[list[float], list[float]]]) -> dict[str, Any]:
    """Exact match and likelihood; appends the values by question to `scores`, whose first entry is the reference."""
    if not questions:
        return {}
    from llm_pipeline.evaluation.metrics import exact_match

    asked = [[{"role": "user", "content": question.question}] for question in questions]
    answers = generator.answer(asked)
    right = [float(exact_match(a.text, q.answer)) for a, q in zip(answers, questions, strict=True)]
    likelihoods = generator.likelihoods(asked, [question.answer for question in questions])
    nll = [item.nll / max(1, item.tokens) for item in likelihoods]
    scores.append((right, nll))
    changes = {}
    if len(scores) > 1:
        changes = {"exact_match_change": paired_difference(scores[0][0], right), "nll_change": paired_difference(scores[0][1], nll)}
    return {"exact_match": round(statistics.fmean(right), 4), "nll": round(statistics.fmean(nll), 5), **changes}


def read_questions(path: Path, limit: int = 200) -> list[Question]:
    """Up to `limit` rows of `{question, answer}`, or of `{messages}` that are one question and its answer."""
    found = []
    for number, row in enumerate(read_jsonl(path), 1):
        messages = row.get("messages")
        if messages is not None:
            if [message.get("role") for message in messages] == ["user", "assistant"]:
                found.append(Question(messages[0]["content"], messages[1]["content"]))
        elif "question" in row and "answer" in row:
            found.append(Question(str(row["question"]), str(row["answer"])))
        else:
            raise InputError(f"{path}:{number}: expected question and answer, or messages, received the keys {sorted(row)}")
    if not found:
        raise InputError(f"{path}: no question with an answer")
    return found[:limit]
