"""What guardrails say about a conversation or an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Action = Literal["off", "flag", "redact", "reask", "block"]
"""What a rule does when it fires, from nothing to the most; several rules together do what the strictest says."""
STRICTER: tuple[str, ...] = ("off", "flag", "redact", "reask", "block")


@dataclass(frozen=True)
class Verdict:
    """`pass` when no rule fired; `redact` means: go on with what is left (`messages` and `passages`, or the text that was shown)."""

    action: Literal["pass", "flag", "redact", "reask", "block"] = "pass"
    rules: tuple[str, ...] = ()
    score: float = 0.0
    """How likely an attack is, by the detector; 0.5 is its threshold. 1 where a rule without a score blocks."""
    messages: tuple[dict[str, str], ...] = ()
    """The conversation without what was struck out (before the model)."""
    passages: tuple[int, ...] = ()
    """Numbers of the retrieved texts that may be used (before the model)."""
    reason: str = ""
    """What to tell the model when the answer is asked for again (after the model)."""

    @property
    def stops(self) -> bool:
        return self.action in ("block", "reask")


def strictest(rules: Iterable[str], actions: Mapping[str, Action]) -> Literal["pass", "flag", "redact", "reask", "block"]:
    """What these rules do together."""
    worst = max((STRICTER.index(actions[rule]) for rule in rules), default=0)
    return "pass" if worst == 0 else STRICTER[worst]  # type: ignore[return-value]
