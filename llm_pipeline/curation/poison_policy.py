"""The `poison` part of data/policies/quality.yaml, and what a detector finds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_pipeline.errors import ConfigError

RULES = ("hidden_unicode", "hidden_instruction", "homoglyphs", "trigger_phrase", "burst")
"""What a document is suspected of, in the order in which it is counted."""
QUARANTINED = frozenset(RULES)
"""The reasons that send a document to review; every other removes it."""


@dataclass(frozen=True)
class Instructions:
    """One family of instructions that a document has no reason to give to an AI."""

    name: str
    anchors: tuple[str, ...]
    """Words or phrases around which the patterns are looked for."""
    patterns: tuple[str, ...]
    """In lower case, as the texts are when they are searched, which takes half the time of ignoring case."""

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            if re.search(r"(?<!\\)[A-Z]", pattern):
                raise ConfigError(f"instructions {self.name!r}: received the pattern {pattern!r}, expected lower case")


@dataclass(frozen=True)
class BurstPolicy:
    """When many alike documents arrive from one source at once."""

    history: int = 3
    """Earlier days that a source must have for its day to be judged."""
    factor: float = 4.0
    """A day is a burst above so many times the source's median day before it."""
    support: int = 20
    """Alike documents of a source and day that make a flood."""


@dataclass(frozen=True)
class PoisonPolicy:
    instructions: tuple[Instructions, ...]
    expected_completions: tuple[str, ...] = ()
    """Answers that many different questions rightly share, such as the refusal."""
    zero_width_run: int = 3
    zero_width_total: int = 8
    homoglyph_words: int = 1
    """Words that mix Latin letters with look-alikes of another script, from which on a text is suspect."""
    trigger_support: int = 4
    """Conversations that must share phrase and answer."""
    trigger_precision: float = 0.9
    """Share of the phrase's conversations that get that answer."""
    trigger_overlap: float = 0.34
    """Mean Jaccard overlap of the rest of the questions, at most: a fact's questions resemble one another, a trigger's do not."""
    bursts: BurstPolicy = BurstPolicy()


@dataclass(frozen=True)
class Finding:
    rule: str
    score: float
    detail: str
