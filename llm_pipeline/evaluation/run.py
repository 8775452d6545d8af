"""One model through the suites: questions to answers to scored rows to a summary with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_pipeline.evaluation import metrics
from llm_pipeline.evaluation.compare import mean_interval
from llm_pipeline.evaluation.generate import Completion, Generator, Likelihood, Progress, perplexity
from llm_pipeline.evaluation.suites import Suite
from llm_pipeline.prompts import Prompt

if TYPE_CHECKING:
    from llm_pipeline.retrieval.search import Passage, Searcher

PASSAGES = 1
"""How many retrieved passages a question is asked with; the best one first."""


def run_suites(
    generator: Generator,
    suites: Mapping[str, Suite],
    prompt: Prompt,
    searcher: Searcher | None = None,
    *,
    max_new_tokens: int = 40,
    passages: int = PASSAGES,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Scored rows of every question: closed book, or with retrieved passages when a `searcher` is given.

    A question that stands in several suites is asked once. Rows: suite, id, mode, kind, question, reference, answer, finished, em,
    rouge_l, refused, grounded (None without passages or when refused), nll, tokens, passages (ids and texts).
    """
    asked = [(suite.name, row) for suite in suites.values() for row in suite.rows]
    found = _retrieve(searcher, [row["question"] for _, row in asked], passages)
    conversations = [
        prompt.messages([{"role": "user", "content": row["question"]}], [p.text for p in hits])
        for (_, row), hits in zip(asked, found, strict=True)
    ]
    answers = _answer_once(generator, conversations, max_new_tokens, progress)
    likelihoods = generator.likelihoods(conversations, [str(row["answer"]) for _, row in asked])
    mode = "retrieval" if searcher else "closed"
    return [
        {"suite": suite, "mode": mode} | score(row, answer, likelihood, hits)
        for (suite, row), answer, likelihood, hits in zip(asked, answers, likelihoods, found, strict=True)
    ]


def score(row: Mapping[str, Any], answer: Completion, likelihood: Likelihood, passages: Sequence[Passage]) -> dict[str, Any]:
    """One answer against its suite row."""
    reference, refused = str(row["answer"]), metrics.is_refusal(answer.text)
    texts = [passage.text for passage in passages]
    return {
        "id": str(row["id"]),
        "kind": row.get("kind") or "fact",
        "question": row["question"],
        "reference": reference,
        "answer": answer.text,
        "finished": answer.finished,
        "em": metrics.exact_match(answer.text, reference),
        "rouge_l": round(metrics.rouge_l(answer.text, reference), 4),
        "refused": refused,
        "grounded": None if refused or not texts else metrics.is_grounded(answer.text, texts),
        **asdict(likelihood),
        "passages": [{"id": p.id, "uri": p.uri, "text": p.text} for p in passages],
    }


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line per (suite, model, mode) in their order of appearance; `refusal` is the share of refused questions."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["suite"], row["model"], row["mode"]), []).append(row)
    return [{"suite": s, "model": model, "mode": mode} | _summary(group) for (s, model, mode), group in groups.items()]


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    em = mean_interval([float(row["em"]) for row in rows])
    grounded = [row["grounded"] for row in rows if row["grounded"] is not None]
    return {
        "n": len(rows),
        "em": round(em.mean, 4),
        "em_low": round(em.low, 4),
        "em_high": round(em.high, 4),
        "rouge_l": round(float(np.mean([row["rouge_l"] for row in rows])), 4),
        "refusal": round(float(np.mean([row["refused"] for row in rows])), 4),
        "groundedness": round(float(np.mean(grounded)), 4) if grounded else None,
        "finished": round(float(np.mean([row["finished"] for row in rows])), 4),
        "perplexity": round(perplexity([Likelihood(row["nll"], row["tokens"]) for row in rows]), 4),
    }


def refusal_quality(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Precision and recall of refusing: which refusals were right, and which unanswerable questions were refused."""
    refused, wanted = [row["refused"] for row in rows], [row["kind"] == "refusal" for row in rows]
    both = sum(r and w for r, w in zip(refused, wanted, strict=True))
    return {
        "precision": round(both / sum(refused), 4) if any(refused) else None,
        "recall": round(both / sum(wanted), 4) if any(wanted) else None,
    }


def _retrieve(searcher: Searcher | None, questions: Sequence[str], k: int) -> list[list[Passage]]:
    if searcher is None:
        return [[] for _ in questions]
    searcher.embedder.warm(questions)
    return [searcher.search(question, k) for question in questions]


def _answer_once(generator: Generator, conversations: Sequence[Any], max_new_tokens: int, progress: Progress | None) -> list[Completion]:
    keys = [repr(conversation) for conversation in conversations]
    unique = dict(zip(keys, conversations, strict=True))
    answers = dict(zip(unique, generator.answer(list(unique.values()), max_new_tokens=max_new_tokens, progress=progress), strict=True))
    return [answers[key] for key in keys]
