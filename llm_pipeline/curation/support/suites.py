"""The bank's own evaluation questions: held-out templates only, with the article that holds the answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llm_pipeline.curation.support.bank import SupportConfig, absent_facts, article_uri, bank, shifted_facts
from llm_pipeline.curation.support.world import HELD_OUT_QUESTIONS, REFUSAL, Fact
from llm_pipeline.store import read_jsonl, write_jsonl

UNANSWERABLE = 140


@lru_cache(maxsize=8)
def suites(config: SupportConfig) -> dict[str, tuple[dict[str, Any], ...]]:
    """`facts` (true before the shift), `facts_after`, `shifted` (what changed or is new) and `unanswerable`; rows as in the suite files."""
    before, after = bank(config, config.all_days[0]), bank(config, config.shift_date)
    r = config.random("unanswerable")
    absent = absent_facts(before)
    return {
        "facts": _questions(config, "facts", before.facts, (2, 3)),
        "facts_after": _questions(config, "facts_after", after.facts, (2, 3)),
        "shifted": _questions(config, "shifted", shifted_facts(config), (2, 3)),
        "unanswerable": _questions(config, "unanswerable", r.sample(absent, min(UNANSWERABLE, len(absent))), (1,)),
    }


def write_suites(config: SupportConfig, landing: Path) -> dict[str, int]:
    """Write `landing/support/suites/<suite>.jsonl` and return the number of rows of each; unchanged files are left alone."""
    for name, rows in suites(config).items():
        path = landing / "support" / "suites" / f"{name}.jsonl"
        if not path.exists() or not _same(path, rows):
            write_jsonl(path, rows)
    return {name: len(rows) for name, rows in suites(config).items()}


def _questions(config: SupportConfig, suite: str, facts: Sequence[Fact], each: Sequence[int]) -> tuple[dict[str, Any], ...]:
    rows = []
    for i, fact in enumerate(facts):
        for k, question in enumerate(_phrasings(fact, each[i % len(each)], config.random("suite", suite, fact.key))):
            refused = fact.value == REFUSAL
            relevant = [] if refused else [article_uri(fact.product)]
            kind = "refusal" if refused else "fact"
            rows.append({"id": f"{suite}-{i:03d}-{k}", "question": question, "answer": fact.value, "kind": kind, "relevant": relevant})
    return tuple(rows)


def _phrasings(fact: Fact, n: int, r: random.Random) -> list[str]:
    """`n` different held-out ways to ask, the attribute's names in turn."""
    names = r.sample(fact.attribute.names, len(fact.attribute.names))
    templates = r.sample(HELD_OUT_QUESTIONS, n)
    return [template.format(name=names[k % len(names)], product=fact.product) for k, template in enumerate(templates)]


def _same(path: Path, rows: Sequence[dict[str, Any]]) -> bool:
    return read_jsonl(path) == list(rows)
