"""data/policies/quality.yaml as typed, cross-checked values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llm_pipeline.config import load
from llm_pipeline.curation.poison_policy import PoisonPolicy
from llm_pipeline.curation.quality_scores import NAMES
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.paths import DATA

POLICY = DATA / "policies" / "quality.yaml"
RULED = (*NAMES, "language_certainty")
"""The scores that a rule can limit."""
SUPPORT = "support"
SUPPORT_KINDS = ("article", "conversation", "web", "note", "doc")


@dataclass(frozen=True)
class Rule:
    """One limit on one score, as published; `kinds` gives another (of `minimum` where there is one) or none (null).

    `support` stands for every kind of the support desk's short texts that has no limit of its own.
    """

    source: str
    minimum: float | None = None
    maximum: float | None = None
    kinds: Mapping[str, float | None] = field(default_factory=dict)

    def limits(self, kind: str) -> tuple[float | None, float | None]:
        name = SUPPORT if kind in SUPPORT_KINDS and kind not in self.kinds else kind
        if name not in self.kinds:
            return self.minimum, self.maximum
        own = self.kinds[name]
        if own is None:
            return None, None
        return (own, self.maximum) if self.minimum is not None else (None, own)


@dataclass(frozen=True)
class LanguagePolicy:
    minimum_score: float = 0.5
    """A language counts, as not allowed or as not English, only when the model is at least this sure."""


@dataclass(frozen=True)
class ToxicityPolicy:
    certain: float
    likely: float
    exempt: tuple[str, ...]
    """Kinds of documents that are not judged."""
    words: tuple[str, ...]


@dataclass(frozen=True)
class QualityPolicy:
    rules: Mapping[str, Rule]
    language: LanguagePolicy
    toxicity: ToxicityPolicy
    bias_terms: Mapping[str, tuple[str, ...]]
    """Words that name groups of people, by the trait they name: counted, never a reason."""
    poison: PoisonPolicy

    @property
    def bias_words(self) -> tuple[str, ...]:
        return tuple(word for words in self.bias_terms.values() for word in words)

    def __post_init__(self) -> None:
        for name, rule in self.rules.items():
            if name not in RULED:
                raise ConfigError(f"quality policy: unknown rule {name!r}{near(name, RULED)}")
            if rule.minimum is None and rule.maximum is None:
                raise ConfigError(f"quality policy: rule {name!r} has neither minimum nor maximum")
            for kind in rule.kinds:
                if kind not in (SUPPORT, *SUPPORT_KINDS):
                    raise ConfigError(f"quality policy: rule {name!r}: unknown kind {kind!r}{near(kind, (SUPPORT, *SUPPORT_KINDS))}")


def load_policy(path: Path = POLICY) -> QualityPolicy:
    return load(QualityPolicy, path)
