"""The rules before the model, and the door to those after it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from llm_pipeline.serving.guardrails.disguise import letters
from llm_pipeline.serving.guardrails.output import OutputGuard, OutputRules, kinds_of
from llm_pipeline.serving.guardrails.policy import DETECTED, Policy
from llm_pipeline.serving.guardrails.spans import Kind, folded
from llm_pipeline.serving.guardrails.triggers import triggered
from llm_pipeline.serving.guardrails.verdict import Verdict, strictest
from llm_pipeline.serving.guardrails.words import toxic

_SHORT = 1500
"""Characters up to which checking takes no longer than handing it to a thread (about 0.2 ms)."""


class Detector(Protocol):
    """A trained model that tells attacks from ordinary requests; 0.5 is its own threshold."""

    def turn(self, text: str) -> Mapping[str, float]:
        """Score of each of the rules "input:injection", "input:jailbreak", "input:harmful" for what a user says."""
        ...

    def passage(self, text: str) -> float:
        """How likely a retrieved text holds orders to the model."""
        ...


class Guards:
    """The guardrails of one release. `detector` takes the place of the policy's own."""

    def __init__(self, policy: Policy, detector: Detector | None = None) -> None:
        self.policy = policy
        self._actions = policy.actions
        self._detector = detector or self._own_detector()
        self._kinds = kinds_of(policy, "input", tuple(policy.input_pii))
        self._patterns = {f"input:{name}" for name in (*policy.injection, *policy.certain)}
        self._after = OutputRules(policy)
        self._turn = lru_cache(maxsize=256)(self._turn_scores)

    async def before(self, messages: Sequence[Mapping[str, str]], retrieved: Sequence[str] = ()) -> Verdict:
        """Judge a conversation and what was retrieved for it; long ones on a thread, so that other requests go on."""
        size = sum(len(message["content"]) for message in messages) + sum(map(len, retrieved))
        return self.check(messages, retrieved) if size <= _SHORT else await asyncio.to_thread(self.check, messages, retrieved)

    def check(self, messages: Sequence[Mapping[str, str]], retrieved: Sequence[str] = ()) -> Verdict:
        """As `before`, at once."""
        if self.policy.too_long(messages) and self._actions["input:too_long"] == "block":
            return Verdict("block", ("input:too_long",))
        found, score = self._attacks(messages)
        rules = self.policy.check_input(messages, attacks=self._detector is None or score >= self.policy.confirmation)
        rules, score = self._confirmed(rules, found, score)
        if "input:toxicity" in self._actions and any(toxic(m["content"]) >= self.policy.toxicity for m in messages if m["role"] == "user"):
            rules.append("input:toxicity")
        kept, worst = self._passages(retrieved)
        if len(kept) < len(retrieved) or worst >= self.policy.threshold("input:indirect"):
            rules.append("input:indirect")
        clean = tuple(self._scrubbed(message, rules) for message in messages)
        action = strictest(rules, self._actions)
        return Verdict(action, tuple(dict.fromkeys(rules)), round(max(score, worst), 4), clean, kept)

    def after(self, messages: Sequence[Mapping[str, str]] = (), retrieved: Sequence[str] = ()) -> OutputGuard:
        """The checker of the answer to `messages` as the model got them (system prompt included)."""
        system = "\n".join(message["content"] for message in messages if message["role"] == "system")
        question = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
        return OutputGuard(self._after, system, retrieved, question)

    def _confirmed(self, rules: list[str], found: list[str], score: float) -> tuple[list[str], float]:
        """Patterns and detector together: a pattern says more than the detector's own rule. (One in a text that the detector finds far
        from any attack is not looked for: someone quotes or asks about one.)"""
        if rules and not self._patterns.isdisjoint(rules):
            found = [rule for rule in found if rule not in ("input:injection", "input:jailbreak")]
            score = max(score, 0.5 + score / 2)
        return rules + found, score

    def _own_detector(self) -> Detector | None:
        if not self._actions.keys() & set(DETECTED):
            return None
        from llm_pipeline.serving.guardrails.detector import open_detector  # numpy only where there is something to detect

        return open_detector(self.policy.detector)

    def _attacks(self, messages: Sequence[Mapping[str, str]]) -> tuple[list[str], float]:
        """Rules of the detector that fire on what the client says, and the highest score (a wish that is not harmful enough has none)."""
        rules, highest = [], 0.0
        for message in messages:
            for rule, score in self._turn(message["role"], message["content"]):
                fires = rule in self._actions and score >= self.policy.threshold(rule)
                rules += [rule] if fires else []
                highest = max(highest, score) if fires or rule != "input:harmful" else highest
        return rules, highest

    def _turn_scores(self, role: str, text: str) -> tuple[tuple[str, float], ...]:
        if self._detector is None:
            return ()
        if role == "user":
            return tuple(self._detector.turn(letters(text)).items())
        return (("input:indirect", self._detector.passage(letters(text))),) if role == "tool" else ()

    def _passages(self, retrieved: Sequence[str]) -> tuple[tuple[int, ...], float]:
        """Numbers of the passages that may be used, and the highest score of any."""
        if not retrieved:
            return (), 0.0
        every = tuple(range(len(retrieved)))
        if self._detector is None or "input:indirect" not in self._actions:
            return every, 0.0
        scores = [self._detector.passage(letters(text)) for text in retrieved]
        strikes = self._actions["input:indirect"] != "flag"
        limit = self.policy.threshold("input:indirect")
        return tuple(i for i in every if not (strikes and scores[i] >= limit)), max(scores, default=0.0)

    def _scrubbed(self, message: Mapping[str, str], rules: list[str]) -> dict[str, str]:
        """The message without the values that the policy strikes out of what a client says."""
        if message["role"] not in ("user", "tool"):
            return dict(message)
        return {**message, "content": _without(message["content"], self._kinds, self._actions, rules)}


def _without(text: str, kinds: Sequence[tuple[str, Kind]], actions: Mapping[str, str], rules: list[str]) -> str:
    for rule, kind in triggered(kinds, folded(text)):
        for start, end in reversed(list(kind.find(text))):
            rules.append(rule)
            if actions[rule] == "redact":
                text = f"{text[:start]}[{rule.partition(':')[2].upper()}]{text[end:]}"
    return text
