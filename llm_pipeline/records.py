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


@dataclass
class Interaction:
    """One request as it was answered; written durably before the reply ends. Older logs lack the fields that have a default.

    Nobody changes one (to freeze it would take most of the time that making it does, with every request).
    """

    id: str
    received_at: str
    """ISO 8601 with offset. A simulated client's event time when its key may set one, else the gateway's clock."""
    release: str
    key: str
    """Name of the API key."""
    messages: list[dict[str, Any]]
    answer: str
    finish_reason: str
    """As replied (stop, length, content_filter, tool_calls), or error, cancelled."""
    passages: list[dict[str, Any]]
    """Retrieved passages: id, score, uri."""
    usage: dict[str, int]
    """prompt_tokens, completion_tokens."""
    seconds: dict[str, float]
    """queue, retrieval, guardrails, first_token, total; those that did not happen are absent."""
    guardrails: list[str]
    """Names of the rules that fired."""
    user: str | None = None
    key_id: int | None = None
    variant: str = ""
    """The arm of an A/B test or rollout that the request was assigned to, whatever answered in the end."""
    prompt: dict[str, str] = field(default_factory=dict)
    """id of the prompt, and system: the hash of the system message that the model was sent."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What the client set of temperature, top_p, max_tokens, seed and the like."""
    guardrail_events: list[dict[str, Any]] = field(default_factory=list)
    """rule, action, score of every rule that fired."""
    cache: str = ""
    """hit, semantic, miss, or empty when the release does not cache or the request must not be answered from memory."""
    cost: float = 0.0
    """In the currency of the release's prices."""
    upstreams: list[dict[str, Any]] = field(default_factory=list)
    """Every engine that was tried, in order: name, status, seconds."""
    trace_id: str = ""
    """32 hex digits (W3C Trace Context): the client's, or made here."""
    span_id: str = ""
    """16 hex digits: the gateway's own span, which is what an engine sees as its parent."""
    parent_span_id: str = ""
    """16 hex digits: the client's span, when it sent one."""
    status: int = 200
    """The HTTP status of the reply; of a stream that failed after its beginning, what it would have been."""
    error: str = ""
    """The code of the error that was replied."""
    raw: str = ""
    """All that the model wrote, where a prompt makes the answer only a part of it (reasoning, a field of an object)."""
    choices: list[dict[str, Any]] = field(default_factory=list)
    """Every answer (text, finish_reason, tool_calls), where there are several or tool calls."""
    scrubbed: bool = False
    """Whether personal data was taken out of messages and answer before they were written."""
