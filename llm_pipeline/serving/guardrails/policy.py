"""The policy file of the guardrails (`data/policies/guardrails.yaml`): which rules there are and what each one does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import hyperscan

from llm_pipeline.config import build, load
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.serving.guardrails.disguise import hides, letters
from llm_pipeline.serving.guardrails.verdict import Action
from llm_pipeline.sieve import Sieve

BLOCKED_INPUT = "I cannot help with that request."
BLOCKED_OUTPUT = "I cannot show that answer."

Personal = Literal["email", "card", "iban"]
DETECTED = ("input:injection", "input:jailbreak", "input:harmful", "input:indirect")
NAMED = (
    *DETECTED,
    "input:toxicity",
    "input:secret",
    "output:secret",
    "output:html",
    "output:sql",
    "output:shell",
    "output:hidden",
    "output:system_prompt",
    "output:toxicity",
    "output:too_long",
    "output:schema",
    "output:ungrounded",
)
"""Rules that run only where `rules` names them."""
REDACTED = ("email", "card", "iban", "secret", "html", "sql", "shell", "hidden", "indirect")
"""What can be struck out of a text; other rules judge all of it."""
Patterns = Sequence[tuple[str, re.Pattern[str]]]
_PYTHONS_OWN, _PYTHONS_SPACE = re.compile(r"\\[NvZ]|\{,|\[:|\$"), re.compile("[\x1c-\x1f]")
"""What Python's patterns mean something else by than Hyperscan's, and what only Python calls white space."""


@dataclass(frozen=True)
class Policy:
    """A guardrail policy file. Every pattern is a case-insensitive regular expression."""

    maximum_characters: int = 8000
    hidden_unicode: bool = True
    injection: dict[str, str] = field(default_factory=dict)
    """Name of a rule -> pattern in the user's turns, where the detector confirms it."""
    certain: dict[str, str] = field(default_factory=dict)
    """The same of patterns that count whatever the detector says."""
    output_pii: list[Personal] = field(default_factory=list)
    allowed_email_domains: list[str] = field(default_factory=list)
    rules: dict[str, Action] = field(default_factory=dict)
    """Rule -> what it does. Rules of the fields above and of `topics` and `input_pii` block unless named here."""
    input_pii: list[Personal] = field(default_factory=list)
    topics: dict[str, str] = field(default_factory=dict)
    """Name of a topic that is not talked about -> pattern; the rule is "input:topic_NAME"."""
    detector: str = ""
    """Folder of another detector: one that `llm-pipeline guard --train` made, or a transformers text classifier. Empty: the shipped one."""
    confirmation: float = 0.0
    """Least score of the detector at which a pattern of `injection` counts; 0: each one does."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Rule of the detector -> score from which it fires, where it is not 0.5."""
    toxicity: float = 0.97
    """Probability from which a sentence is toxic."""
    maximum_answer_characters: int = 20000
    leaked_words: int = 8
    """So many words of the system prompt in a row are a leak of it."""
    groundedness: float = 0.5
    """Least share of an answer's content words and numbers that stand in the retrieved texts."""
    schema: dict[str, Any] | None = None
    """JSON schema (2020-12) of every answer."""

    def __post_init__(self) -> None:
        for name, pattern in {**self.injection, **self.certain, **self.topics}.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"guardrail {name!r}: not a regular expression: {error}") from error
        for rule in (*self.rules, *self.thresholds):
            if rule not in self.known:
                raise ConfigError(f"guardrails: unknown rule {rule!r}{near(rule, self.known)}")
        for rule, action in self.rules.items():
            if action == "redact" and rule.partition(":")[2] not in REDACTED:
                raise ConfigError(
                    f"guardrails: {rule} cannot be struck out of a text: received 'redact', expected off, flag, reask or block"
                )
        if self.schema is not None:
            _check_schema(self.schema)

    @property
    def id(self) -> str:
        """A setting that a policy does without does not count, so that a new kind of rule changes no old id."""
        from llm_pipeline.store import content_hash  # a gateway that never asks for the id does without its libraries (80 MB)

        old = ("maximum_characters", "hidden_unicode", "injection", "output_pii", "allowed_email_domains")
        bare = Policy()
        changed = [item.name for item in fields(self) if item.name in old or getattr(self, item.name) != getattr(bare, item.name)]
        return content_hash({name: asdict(self)[name] for name in changed})

    @cached_property
    def known(self) -> list[str]:
        return [*self._always, *NAMED]

    @property
    def _always(self) -> list[str]:
        return [
            "input:too_long",
            "input:hidden_unicode",
            *(f"input:{name}" for name in (*self.injection, *self.certain, *self.input_pii)),
            *(f"input:topic_{name}" for name in self.topics),
            *(f"output:{kind}" for kind in self.output_pii),
        ]

    @cached_property
    def actions(self) -> Mapping[str, Action]:
        """What each rule does that runs at all."""
        every: dict[str, Action] = {**dict.fromkeys(self._always, "block"), **self.rules}
        return {name: action for name, action in every.items() if action != "off"}

    def threshold(self, rule: str) -> float:
        return self.thresholds.get(rule, 0.5)

    @cached_property
    def patterns(self) -> Patterns:
        """The rules that are patterns in the user's turns."""
        return [*self._compiled({f"input:{name}": pattern for name, pattern in self.injection.items()}), *self.certain_patterns]

    @cached_property
    def certain_patterns(self) -> Patterns:
        """Those of them that no detector needs to confirm."""
        named = {f"input:{name}": pattern for name, pattern in self.certain.items()}
        return self._compiled(named | {f"input:topic_{name}": pattern for name, pattern in self.topics.items()})

    def _compiled(self, named: Mapping[str, str]) -> Patterns:
        return [(name, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for name, pattern in named.items() if name in self.actions]

    def allows(self, address: str) -> bool:
        """Whether an e-mail address may be given out."""
        return address.rpartition("@")[2].lower().rstrip(".") in self.allowed_email_domains

    def too_long(self, messages: Sequence[Mapping[str, str]]) -> bool:
        return "input:too_long" in self.actions and sum(len(message["content"]) for message in messages) > self.maximum_characters

    def check_input(self, messages: Sequence[Mapping[str, str]], *, attacks: bool = True) -> list[str]:
        """Names of the plain rules that the user's turns break: length, hidden ones, patterns (of `injection` only with `attacks`)."""
        if self.too_long(messages):
            return ["input:too_long"]
        texts = [message["content"] for message in messages if message["role"] == "user"]
        broken = []
        if self.hidden_unicode and "input:hidden_unicode" in self.actions and any(map(hides, texts)):
            broken.append("input:hidden_unicode")
        simple = [letters(text) for text in texts]
        patterns = self.patterns if attacks else self.certain_patterns
        found = {name for text in simple for name, pattern in self._likely(patterns, text) if pattern.search(text)}
        return broken + [name for name, _ in patterns if name in found]

    def _likely(self, patterns: Patterns, text: str) -> Patterns:
        """Those of the patterns that may stand in a text, by one pass over it where it is of ASCII."""
        if not patterns or not text.isascii() or _PYTHONS_SPACE.search(text) or (sieve := self._sieved[1]) is None:
            return patterns
        names, held = self._sieved[0], sieve.held(text)
        passed = {names[i] for i in held}
        return [(name, pattern) for name, pattern in patterns if name in passed or name not in names]

    @cached_property
    def _sieved(self) -> tuple[Sequence[str], Sieve | None]:
        """Names of the patterns that a sieve reads as Python does, and the sieve of these."""
        named = {name: p.pattern for name, p in self.patterns if p.pattern.isascii() and not _PYTHONS_OWN.search(p.pattern)}
        try:
            return list(named), Sieve(list(named.values()), caseless=True) if named else None
        except hyperscan.error:
            return [], None


def load_policy(path: Path) -> Policy:
    return load(Policy, path)


def build_policy(raw: Mapping[str, Any]) -> Policy:
    return build(Policy, raw, "release policy")


def _check_schema(schema: Mapping[str, Any]) -> None:
    import jsonschema  # type: ignore[import-untyped]

    try:
        jsonschema.Draft202012Validator.check_schema(json.loads(json.dumps(schema)))
    except jsonschema.SchemaError as error:
        raise ConfigError(f"guardrails, schema: {error.message}") from error
