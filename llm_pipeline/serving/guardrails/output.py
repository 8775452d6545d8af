"""An answer on its way out: what may be shown of it now, what is struck out, and when to stop.

Each piece is read once: text without suspicious characters costs one search, and only what could still become a match stays back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from llm_pipeline.serving.guardrails.policy import Policy
from llm_pipeline.serving.guardrails.spans import CONTEXT, KINDS, SECRETS, Kind
from llm_pipeline.serving.guardrails.verdict import Verdict, strictest
from llm_pipeline.serving.guardrails.words import WORD, LeakRule, ToxicityRule, grounded_share

Span = tuple[int, int, str]
"""Start, end, rule."""
_BEFORE = 4
"""Characters already shown that a trigger may begin in."""
_IN_A_WORD = "".join(map(chr, range(33, 127)))
"""What a word under way may consist of that could still become a value (scripts without spaces need no waiting)."""
_LONGEST_WORD = 64
"""A longer word under way is shown but for its end."""
_SPANS = ("html", "sql", "shell", "hidden")


class OutputGuard:
    """The rules after the model, for one answer."""

    def __init__(self, policy: Policy, system: str = "", retrieved: Sequence[str] = (), question: str = "") -> None:
        self._policy, self._actions = policy, policy.actions
        self._sources = [*retrieved, question] if retrieved else []
        self._kinds = kinds_of(policy, "output", ("email", "card", "iban", *_SPANS))
        self._suspect = _any_of(tuple(kind.trigger.pattern for _, kind in self._kinds))
        self._leak = LeakRule(system, policy.leaked_words) if system and "output:system_prompt" in self._actions else None
        self._toxicity = ToxicityRule(policy.toxicity) if "output:toxicity" in self._actions else None
        self._at_end = [rule for rule, runs in self._end_rules() if runs and rule in self._actions]
        self._waits = any(self._actions[rule] in ("block", "reask") for rule in self._at_end)
        self._pending: str = ""
        self._context: str = ""
        self._held: str = ""
        self._length = 0
        self._whole: list[str] = []
        self._shown = 0
        self._reasons: list[str] = []
        self.verdict = Verdict()
        """Of all of the answer so far."""

    def feed(self, delta: str, last: bool = False) -> tuple[str, Verdict | None]:
        """The text that may be shown now, and the verdict when it changed; after one that `stops` nothing more is shown."""
        if self.verdict.stops:
            return "", None
        before = len(self.verdict.rules)
        self._pending += delta
        self._length += len(delta)
        if self._at_end:
            self._whole.append(delta)
        if self._length > self._policy.maximum_answer_characters and "output:too_long" in self._actions:
            self._fire("output:too_long")
        if last and self._at_end:
            self._judge_whole("".join(self._whole))
        if self.verdict.stops or (self._waits and not last):
            return "", self.verdict if self.verdict.stops else None
        shown = self._by_words(self._release(last), last)
        return shown, self.verdict if len(self.verdict.rules) > before else None

    def _end_rules(self) -> list[tuple[str, bool]]:
        return [("output:schema", self._policy.schema is not None), ("output:ungrounded", bool(self._sources))]

    def _fire(self, rule: str, reason: str = "") -> None:
        if rule in self.verdict.rules:
            return
        rules = (*self.verdict.rules, rule)
        self._reasons += [reason] if reason else []
        self.verdict = Verdict(strictest(rules, self._actions), rules, reason="; ".join(self._reasons))

    def _release(self, last: bool) -> str:
        """What of the pending text cannot become a match any more, with matches struck out."""
        text = self._pending
        seen = self._context[-_BEFORE:] + text
        if self._suspect is None or self._suspect.search(seen) is None:
            until = len(text) if last else len(text.rstrip(_IN_A_WORD))
            piece = text[:until]
        else:
            kinds = [(rule, kind) for rule, kind in self._kinds if kind.trigger.search(seen)]
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
            if self.verdict.stops:
                return "".join([*pieces, text[at : max(start, at)]])
            if self._actions[rule] == "redact" and end > at:
                pieces += [text[at : max(start, at)], "" if rule == "output:hidden" else f"[{rule.partition(':')[2].upper()}]"]
                at = end
        return "".join([*pieces, text[at:until]])

    def _by_words(self, piece: str, last: bool) -> str:
        """Run the rules that read words over text that is about to be shown."""
        if not (self._leak or self._toxicity) or not (piece or last):
            return piece
        out = self._held + piece
        cut = self._leaks(piece) if self._leak else None
        if self._toxicity and self._toxicity.add(piece, WORD.findall(piece.lower())):
            self._fire("output:toxicity")
            if self.verdict.stops:
                return self._held
        if cut is not None and self.verdict.stops:
            return out[: max(cut - (self._shown - len(self._held)), 0)]
        return self._show(out, last)

    def _leaks(self, piece: str) -> int | None:
        """Where a leak begins that this piece completes (in characters of the answer as shown)."""
        leak = self._leak
        assert leak is not None
        found = None
        for word in WORD.finditer(piece):
            if leak.add(word[0].lower(), self._shown + word.start()):
                self._fire("output:system_prompt")
                found = leak.start
                if self.verdict.stops:
                    return found
        self._shown += len(piece)
        return found

    def _show(self, out: str, last: bool) -> str:
        if self._leak is None:
            return out
        begin = self._shown - len(out)
        start = max(self._leak.start - begin, 0)
        if self._leak.suspicious and not last:
            self._held = out[start:]
            return out[:start]
        self._held = ""
        return out

    def _judge_whole(self, answer: str) -> None:
        if "output:schema" in self._at_end and (fault := schema_fault(answer, self._policy.schema)):
            self._fire("output:schema", fault)
        if "output:ungrounded" in self._at_end and (share := grounded_share(answer, self._sources)) < self._policy.groundedness:
            self._fire("output:ungrounded", f"only {share:.0%} of the answer stands in the retrieved texts: use nothing else")


@lru_cache(maxsize=64)
def _any_of(triggers: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(triggers), re.I) if triggers else None


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
