"""What stands in for a value: a placeholder, a mask, nothing, or a keyed pseudonym that is the same wherever the value is."""

from __future__ import annotations

import hashlib
import hmac
import os
import re

from llm_pipeline.curation.pii.judge import TITLES
from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.errors import ConfigError

KEY = "LLM_PIPELINE_PSEUDONYM_KEY"
_DIGEST = 12
"""Hexadecimal digits of the HMAC: 48 bits, so that among a million values of one type two that share a pseudonym are unlikely."""
_TITLES = re.compile(rf"(?:(?:{TITLES})\b\.? ?)+(?=\w)")
PLACEHOLDER = re.compile(rf"\[[A-Z][A-Z_]+(?:_[0-9a-f]{{{_DIGEST}}})?\]")


class Replacer:
    """The replacements of one policy; the key is read when a pseudonym is first possible, so that a missing one stops the run at once."""

    def __init__(self, policy: PiiPolicy) -> None:
        self.policy = policy
        self._key = _key() if "pseudonym" in {policy.default, *policy.modes.values()} else b""

    def __call__(self, value: str, entity: str, document: str) -> str:
        match self.policy.mode(entity):
            case "mask":
                return re.sub(r"[^\W_]", "*", value)
            case "drop":
                return ""
            case "keep":
                return value
            case "pseudonym":
                return self._pseudonym(value, entity, document)
            case _:
                return f"[{entity}]"

    def _pseudonym(self, value: str, entity: str, document: str) -> str:
        """HMAC-SHA256 (RFC 2104) of the value without title, case, spaces and punctuation: every way to write it gives the same."""
        value = _TITLES.sub("", value, count=1) if entity == "PERSON" else value
        scope = document if self.policy.pseudonym_scope == "document" else ""
        same = "".join(c for c in value.casefold() if c.isalnum()) or value
        digest = hmac.new(self._key, "\0".join((entity, scope, same)).encode(), hashlib.sha256).hexdigest()
        return f"[{entity}_{digest[:_DIGEST]}]"


def _key() -> bytes:
    key = os.environ.get(KEY, "")
    if len(key) < 16:
        raise ConfigError(f"PII policy: mode 'pseudonym' received {len(key)} characters in ${KEY}, expected a secret of 16 or more")
    return key.encode()
