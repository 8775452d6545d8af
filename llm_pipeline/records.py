"""The few records that cross stages, validated when built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llm_pipeline.errors import ConfigError
from llm_pipeline.store import content_hash


@dataclass(frozen=True)
class Release:
    """What answers a request, whole and immutable: every part is named by the hash of its content."""

    model: str
    """Id of a `candidate_model` artefact, or a local path / hub id of an external model."""
    prompt: str
    """Id (hash) of the prompt file version."""
    index: str | None
    """Generation of the vector index, or None for a release that answers without retrieval."""
    policy: str
    """Id (hash) of the guardrail policy."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Engine name and settings, such as {"name": "transformers", "max_batch_tokens": 1024}."""

    @property
    def id(self) -> str:
        return content_hash(asdict(self))


@dataclass(frozen=True)
class Traffic:
    """Which share of the requests each release answers; the shares sum to 1."""

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.weights.values()) or abs(sum(self.weights.values()) - 1) > 1e-9:
            raise ConfigError(f"traffic weights: received {dict(self.weights)}, expected shares >= 0 that sum to 1")


@dataclass(frozen=True)
class Interaction:
    """One request as it was answered; written durably before the reply ends."""

    id: str
    received_at: str
    """ISO 8601 with offset. A simulated client's event time when its key may set one, else the gateway's clock."""
    release: str
    key: str
    messages: list[dict[str, str]]
    answer: str
    finish_reason: str
    passages: list[dict[str, Any]]
    """Retrieved passages: id, score, uri."""
    usage: dict[str, int]
    """prompt_tokens, completion_tokens."""
    seconds: dict[str, float]
    """queue, retrieval, guardrails, first_token, total."""
    guardrails: list[str]
    """Rules that fired."""
    user: str | None = None
