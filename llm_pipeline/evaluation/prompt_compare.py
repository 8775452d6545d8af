"""Two prompts on the same questions and the same model: what each scores, what differs for sure, and which answers change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.errors import InputError
from llm_pipeline.evaluation import metrics
from llm_pipeline.evaluation.compare import mean_interval, paired_difference
from llm_pipeline.evaluation.generate import Completion, Generator, Progress
from llm_pipeline.prompts import Prompt
from llm_pipeline.store import read_jsonl

METRICS = ("em", "rouge_l", "refused", "grounded", "well_formed", "finished", "nll", "prompt_tokens", "reply_tokens")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A question with its expected answer and the passages that it is asked over (none: closed book)."""

    id: str
    question: str
    answer: str
    passages: tuple[str, ...] = ()


def read_cases(path: Path) -> list[Case]:
    """Cases of a suite file: rows of `id, question, answer` and perhaps `passages` (texts, or objects with `text`) or `context`."""
    rows = read_jsonl(path)
    if not rows:
        raise InputError(f"{path}: no rows, expected at least one of id, question, answer")
    cases = [_case(row, f"{path}:{number}") for number, row in enumerate(rows, 1)]
    seen: set[str] = set()
    for number, case in enumerate(cases, 1):
        if case.id in seen:
            raise InputError(f"{path}:{number}: the id {case.id!r} stands twice")
        seen.add(case.id)
    return cases


def _case(row: Any, where: str) -> Case:
    missing = [key for key in ("id", "question", "answer") if not isinstance(row, Mapping) or row.get(key) is None]
    if missing:
        raise InputError(f"{where}: expected the keys id, question, answer, missing {', '.join(missing)}")
    passages = row.get("passages") or ([row["context"]] if row.get("context") else [])
    texts: list[Any] = [passage.get("text") if isinstance(passage, Mapping) else passage for passage in passages]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: passages: expected texts or objects with a text")
    return Case(str(row["id"]), str(row["question"]), str(row["answer"]), tuple(texts))


def ask(
    generator: Generator, prompt: Prompt, cases: Sequence[Case], *, max_new_tokens: int = 40, progress: Progress | None = None
) -> list[Row]:
    """A scored row for every case; what counts is the answer that the prompt finds in the reply.

    `nll` (of the expected answer, nats) is None for a prompt that wants more than the answer in its reply.
    """
    conversations = [prompt.messages([{"role": "user", "content": case.question}], case.passages) for case in cases]
    replies = generator.answer(conversations, max_new_tokens=max_new_tokens, progress=progress)
    plain = not (prompt.reasoning or prompt.output)
    likelihoods = generator.likelihoods(conversations, [case.answer for case in cases]) if plain else [None] * len(cases)
    lengths = [len(_tokens(generator, conversation)) for conversation in conversations]
    return [
        _scored(prompt, case, reply) | {"nll": likelihood.nll if likelihood else None, "prompt_tokens": length}
        for case, reply, likelihood, length in zip(cases, replies, likelihoods, lengths, strict=True)
    ]


def _tokens(generator: Generator, conversation: Any) -> list[int]:
    return list(generator.tokenizer.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True, return_dict=False))


def _scored(prompt: Prompt, case: Case, reply: Completion) -> Row:
    found = prompt.answer_of(reply.text)
    answer = found or ""
    refused = metrics.is_refusal(answer)
    return {
        **asdict(case),
        "expected": case.answer,
        "answer": answer,
        "reply": reply.text,
        "em": metrics.exact_match(answer, case.answer),
        "rouge_l": round(metrics.rouge_l(answer, case.answer), 4),
        "refused": refused,
        "grounded": metrics.is_grounded(answer, case.passages) if case.passages and not refused else None,
        "well_formed": found is not None,
        "finished": reply.finished,
        "reply_tokens": reply.tokens,
    }


def compare(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any]:
    """Means, paired differences with 90% intervals, and the questions whose answer changed (first those that flipped)."""
    pairs = list(zip(before, after, strict=True))
    if any(one["id"] != other["id"] for one, other in pairs):
        raise InputError("the two prompts were asked different questions: expected the same cases in the same order")
    changed = [_change(one, other) for one, other in pairs if one["answer"] != other["answer"]]
    found = {name: difference for name in METRICS if (difference := _difference(pairs, name))}
    gain = found["em"]["difference"]
    return {
        "n": len(pairs),
        "verdict": "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else "not surely different",
        "metrics": found,
        "won": sum(change["flip"] == "won" for change in changed),
        "lost": sum(change["flip"] == "lost" for change in changed),
        "changed": sorted(changed, key=lambda change: ("lost", "won", "").index(change["flip"])),
    }


def _difference(pairs: Sequence[tuple[Row, Row]], name: str) -> dict[str, Any] | None:
    both = [(float(one[name]), float(other[name])) for one, other in pairs if one[name] is not None and other[name] is not None]
    if not both:
        return None
    first, second = zip(*both, strict=True)
    return {
        "before": round(mean_interval(first).mean, 4),
        "after": round(mean_interval(second).mean, 4),
        "difference": {key: value if key == "n" else round(value, 4) for key, value in asdict(paired_difference(first, second)).items()},
    }


def _change(one: Row, other: Row) -> dict[str, Any]:
    flip = "" if one["em"] == other["em"] else "won" if other["em"] else "lost"
    shown = {key: one[key] for key in ("id", "question", "expected", "passages")}
    return shown | {
        "flip": flip,
        "before": one["reply"],
        "after": other["reply"],
        "before_answer": one["answer"],
        "after_answer": other["answer"],
    }
