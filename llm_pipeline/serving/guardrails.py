"""Guardrails of the gateway: what is refused before a model sees it, and personal data that must not leave in an answer.

These catch the plain cases (regular expressions caught 0 to 7% of a public injection set); they are a floor, not a defence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import build, load
from llm_pipeline.errors import ConfigError
from llm_pipeline.store import content_hash

BLOCKED_INPUT = "I cannot help with that request."
BLOCKED_OUTPUT = "I cannot show that answer."

_EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_IBAN = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Z0-9])")
# What may yet become a match when more text follows: a token under way, or a spaced run of digits or of an IBAN's groups.
_OPEN_END = re.compile(r"(?:[A-Z]{2}\d{2}[A-Z0-9 ]{0,34}|\d[\d -]{0,40}|\S{1,64})$")
# Tags, bidirectional controls, zero-width characters and variation selectors (not the joiners that some scripts need).
_HIDDEN = re.compile("[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\u2060-\u2064\ufeff\u00ad\U000e0100-\U000e01ef]")


@dataclass(frozen=True)
class Policy:
    """A guardrail policy file (`data/policies/guardrails.yaml`)."""

    maximum_characters: int = 8000
    hidden_unicode: bool = True
    injection: dict[str, str] = field(default_factory=dict)
    """Name of a rule -> regular expression."""
    output_pii: list[Literal["email", "card", "iban"]] = field(default_factory=list)
    allowed_email_domains: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, pattern in self.injection.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"guardrail {name!r}: not a regular expression: {error}") from error

    @property
    def id(self) -> str:
        return content_hash(asdict(self))

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        return [(name, re.compile(pattern, re.IGNORECASE | re.DOTALL)) for name, pattern in self.injection.items()]

    def check_input(self, messages: Sequence[Mapping[str, str]]) -> list[str]:
        """Names of the rules that the conversation breaks; none means it may go on. Only the client's turns are searched."""
        texts = [message["content"] for message in messages if message["role"] == "user"]
        broken = []
        if sum(len(message["content"]) for message in messages) > self.maximum_characters:
            return ["input:too_long"]
        if self.hidden_unicode and any(_HIDDEN.search(text) for text in texts):
            broken.append("input:hidden_unicode")
        plain = [unicodedata.normalize("NFKC", _HIDDEN.sub("", text)) for text in texts]
        broken += [f"input:{name}" for name, pattern in self._patterns if any(pattern.search(text) for text in plain)]
        return broken

    def check_output(self, text: str) -> list[str]:
        """Names of the personal data kinds that the text holds."""
        found = []
        if "email" in self.output_pii and any(not self._allowed(match[0]) for match in _EMAIL.finditer(text)):
            found.append("output:email")
        if "card" in self.output_pii and any(luhn(match[0]) for match in _CARD.finditer(text)):
            found.append("output:card")
        if "iban" in self.output_pii and any(iban(match[0]) for match in _IBAN.finditer(text)):
            found.append("output:iban")
        return found

    def _allowed(self, address: str) -> bool:
        return address.rpartition("@")[2].lower().rstrip(".") in self.allowed_email_domains


def load_policy(path: Path) -> Policy:
    return load(Policy, path)


def build_policy(raw: Mapping[str, Any]) -> Policy:
    return build(Policy, raw, "release policy")


def safe_length(text: str) -> int:
    """How much of a growing answer may be shown: all but an end that could still become personal data."""
    match = _OPEN_END.search(text)
    return match.start() if match else len(text)


def luhn(text: str) -> bool:
    """Whether the digits of `text` pass the check of payment cards (ISO/IEC 7812-1)."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0 and any(digits)


def iban(text: str) -> bool:
    """Whether `text` passes the mod-97 check of account numbers (ISO 13616)."""
    compact = text.replace(" ", "")
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1
