"""An answer on its way out: what may be shown of it now, what is struck out, and when to stop.

Each piece is read once: text without suspicious characters costs one search, and only what could still become a match stays back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_pipeline.serving.guardrails.policy import Policy
from llm_pipeline.serving.guardrails.spans import CONTEXT, KINDS, SECRETS, Kind, folded
from llm_pipeline.serving.guardrails.triggers import triggered
from llm_pipeline.serving.guardrails.verdict import Verdict, strictest
from llm_pipeline.serving.guardrails.words import LeakRule, ToxicityRule, grounded_share, words_of

Span = tuple[int, int, str]
"""Start, end, rule."""
_BEFORE = 4
"""Characters already shown that a trigger may begin in."""
_IN_A_WORD = "".join(map(chr, range(33, 127)))
"""What a word under way may consist of that could still become a value (scripts without spaces need no waiting)."""
_LONGEST_WORD = 64
"""A longer word under way is shown but for its end."""
_PASS = Verdict()
_SPANS = ("html", "sql", "shell", "hidden")


@dataclass(frozen=True)
class OutputRules:
    """What a policy says of answers, made ready once for all of them."""

    policy: Policy

    @cached_property
    def kinds(self) -> list[tuple[str, Kind]]:
        return kinds_of(self.policy, "output", ("email", "card", "iban", *_SPANS))

    @cached_property
    def most(self) -> float:
        """Characters of the longest answer."""
        return self.policy.maximum_answer_characters if "output:too_long" in self.policy.actions else math.inf

    def at_end(self, *, sourced: bool) -> list[str]:
        """Rules that judge a whole answer."""
        rules = [("output:schema", self.policy.schema is not None), ("output:ungrounded", sourced)]
        return [rule for rule, runs in rules if runs and rule in self.policy.actions]


class OutputGuard:
    """The rules after the model, for one answer."""

    def __init__(self, rules: OutputRules, system: str = "", retrieved: Sequence[str] = (), question: str = "") -> None:
        self._rules, self._policy, self._actions = rules, rules.policy, rules.policy.actions
        self._sources = [*retrieved, question] if retrieved else []
        self._leak = LeakRule(system, self._policy.leaked_words) if system and "output:system_prompt" in self._actions else None
        self._toxicity = ToxicityRule(self._policy.toxicity) if "output:toxicity" in self._actions else None
        self._at_end = rules.at_end(sourced=bool(retrieved))
        self._waits = any(self._actions[rule] in ("block", "reask") for rule in self._at_end)
        self._pending: str = ""
        self._context: str = ""
        self._held: str = ""
        self._length = 0
        self._whole: list[str] = []
        self._reasons: list[str] = []
        self._most = rules.most
        self._over = False
        self.verdict = _PASS
        """Of all of the answer so far."""

    def feed(self, delta: str, last: bool = False) -> tuple[str, Verdict | None]:
        """The text that may be shown now, and the verdict when it changed; after one that `stops` nothing more is shown."""
        before = self.verdict
        if self._over:
            return "", None
        self._pending += delta
        self._length += len(delta)
        if self._at_end:
            self._whole.append(delta)
        if self._length > self._most:
            self._fire("output:too_long")
        if last and self._at_end:
            self._judge_whole("".join(self._whole))
        if self._over or (self._waits and not last):
            return "", self.verdict if self._over else None
        shown = self._by_words(self._release(last), last)
        return shown, self.verdict if self.verdict is not before else None

    def _fire(self, rule: str, reason: str = "") -> None:
        if rule in self.verdict.rules:
            return
        rules = (*self.verdict.rules, rule)
        self._reasons += [reason] if reason else []
        self.verdict = Verdict(strictest(rules, self._actions), rules, reason="; ".join(self._reasons))
        self._over = self.verdict.stops

    def _release(self, last: bool) -> str:
        """What of the pending text cannot become a match any more, with matches struck out."""
        text = self._pending
        until = len(text) if last else len(text.rstrip(_IN_A_WORD))
        if not until and len(text) <= _LONGEST_WORD:
            return ""
        piece = text[:until]
        if kinds := triggered(self._rules.kinds, folded(self._context[-_BEFORE:] + text)):
            until, spans = self._find(text, kinds, last)
            piece = self._struck(text, until, spans)
        if until:
            self._context = (self._context + text[:until])[-CONTEXT:]
            self._pending = text[until:]
        return piece

    def _find(self, text: str, kinds: Sequence[tuple[str, Kind]], last: bool) -> tuple[int, list[Span]]:
        """How much of `text` is settled, and the matches in that; a word under way never is."""
        window, offset = self._context + text, len(self._context)
        until = len(window) if last else max(len(window.rstrip(_IN_A_WORD)), offset, len(window) - _LONGEST_WORD)
        spans: list[Span] = []
        for rule, kind in kinds:
            if not last:
                until = min(until, max(kind.open_end(window), offset))
            for start, end in kind.find(window):
                if end > offset and not (kind.name == "email" and self._policy.allows(window[start:end])):
                    spans.append((max(start - offset, 0), end - offset, rule))
        until -= offset
        if not last and any(start < until < end for start, end, _ in spans):
            until = min(start for start, end, _ in spans if start < until < end)
        return until, sorted(span for span in spans if span[1] <= until)

    def _struck(self, text: str, until: int, spans: list[Span]) -> str:
        """`text[:until]` with the rules' actions done; it ends where one stops the answer."""
        pieces: list[str] = []
        at = 0
        for start, end, rule in spans:
            self._fire(rule)
            if self._over:
                return "".join([*pieces, text[at : max(start, at)]])
            if self._actions[rule] == "redact" and end > at:
                pieces += [text[at : max(start, at)], "" if rule == "output:hidden" else f"[{rule.partition(':')[2].upper()}]"]
                at = end
        return "".join([*pieces, text[at:until]])

    def _by_words(self, piece: str, last: bool) -> str:
        """Run the rules that read words over text that is about to be shown; what may be the begin of a leak stays back."""
        if not (self._leak or self._toxicity) or not (piece or last):
            return piece
        words = words_of(piece)
        leaked = self._leak.add(piece, words) if self._leak else None
        if leaked is not None:
            self._fire("output:system_prompt")
        if self._toxicity and self._toxicity.add(piece, words):
            self._fire("output:toxicity")
            if self._over:
                return self._held
        if self._leak is None or not (self._held or self._leak.suspicious or leaked is not None):
            return piece
        out = self._held + piece
        until = len(out)
        if leaked is not None and self._over:
            until += leaked - self._leak.read
        elif self._leak.suspicious and not last:
            until += self._leak.start - self._leak.read
        self._held = out[max(until, 0) :]
        return out[: max(until, 0)]

    def _judge_whole(self, answer: str) -> None:
        if "output:schema" in self._at_end and (fault := schema_fault(answer, self._policy.schema)):
            self._fire("output:schema", fault)
        if "output:ungrounded" in self._at_end and (share := grounded_share(answer, self._sources)) < self._policy.groundedness:
            self._fire("output:ungrounded", f"only {share:.0%} of the answer stands in the retrieved texts: use nothing else")


def kinds_of(policy: Policy, side: str, names: Sequence[str]) -> list[tuple[str, Kind]]:
    """(rule, kind) of the values that the policy looks for on one side of the model."""
    wanted = [(f"{side}:{name}", KINDS[name]) for name in names]
    wanted += [(f"{side}:secret", KINDS[name]) for name in SECRETS]
    return [(rule, kind) for rule, kind in wanted if rule in policy.actions]


def schema_fault(answer: str, schema: dict[str, Any] | None) -> str:
    """What an answer lacks to be JSON of the schema; empty when it is."""
    import jsonschema  # type: ignore[import-untyped]

    try:
        jsonschema.validate(json.loads(answer), schema, cls=jsonschema.Draft202012Validator)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    except jsonschema.ValidationError as error:
        return f"not JSON of the schema at {error.json_path}: {error.message[:200]}"
    return ""
