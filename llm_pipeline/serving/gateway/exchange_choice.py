"""One answer as it grows: reasoning left out, guarded, its tool calls and log-probabilities gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_pipeline.prompts import Prompt
from llm_pipeline.serving.gateway.protocol_reply import Ended
from llm_pipeline.serving.guardrails import BLOCKED_OUTPUT, OutputGuard, Verdict


class Choice:
    """What the engine says of one of the n answers goes in, what the client may see comes out.

    Of a prompt that asks for reasoning only the answer is shown: what follows the last marker, or, in a stream, the first one
    (a stream cannot know whether another comes). A reply without the marker has no answer.
    """

    def __init__(self, index: int, prompt: Prompt, guard: Callable[[], OutputGuard], *, streamed: bool) -> None:
        self.index, self._prompt, self._new_guard = index, prompt, guard
        self._guard = guard()
        self._marker = prompt.reasoning.marker if prompt.reasoning else None
        self._held = prompt.output is not None or (self._marker is not None and not streamed)
        self._streamed = streamed
        self._before = ""
        self._fresh = prompt.reasoning is not None
        self._reasons = self._fresh or self._held
        self.stopped = False
        """Whether the guardrails ended it."""
        self.raw: list[str] = []
        self.shown: list[str] = []
        self.finish: str | None = None
        self.calls: dict[int, dict[str, Any]] = {}
        self.call_verdicts: list[Verdict] = []
        self._logprobs: list[Mapping[str, Any]] = []

    @property
    def verdict(self) -> Verdict:
        """Of the guardrails, on all of it so far."""
        return next((verdict for verdict in self.call_verdicts if verdict.stops), self._guard.verdict)

    @property
    def text(self) -> str:
        return "".join(self.shown)

    @property
    def said(self) -> str:
        """All that the engine wrote, reasoning and what was held back included."""
        return "".join(self.raw)

    @property
    def logprobs(self) -> list[float]:
        return [float(-100.0 if entry.get("logprob") is None else entry["logprob"]) for entry in self._logprobs]

    def take(self, choice: Mapping[str, Any]) -> str | None:
        """Note one event's part of this answer; returns its text, which is for `feed`."""
        delta: Mapping[str, Any] = choice.get("delta") or choice
        if logprobs := choice.get("logprobs"):
            self._logprobs += logprobs.get("content") or ()
        if calls := delta.get("tool_calls"):
            for call in calls:
                self._call(call)
        if finish := choice.get("finish_reason"):
            self.finish = finish
        return delta.get("content") or choice.get("text")

    def feed(self, piece: str) -> str:
        """Take in text, that of several events at once where they came together; returns what may be shown now."""
        if self.stopped:
            return ""
        self.raw.append(piece)
        return self._show(self._answer_in(piece) if self._reasons else piece)

    def _answer_in(self, piece: str) -> str:
        """What of a piece is part of the answer: nothing before the marker, nor white space after it."""
        if self._held:
            return ""
        if self._marker is not None:
            self._before += piece
            _, found, piece = self._before.partition(self._marker)
            if not found:
                return ""
            self._marker = None
        if self._fresh:
            piece = piece.lstrip()
            self._fresh = not piece
        return piece

    def _show(self, piece: str, *, last: bool = False) -> str:
        if not (piece or last):
            return ""
        shown, verdict = self._guard.feed(piece, last=last)
        if verdict is not None:
            self.stopped = verdict.stops
        if shown:
            self.shown.append(shown)
        return shown

    def _call(self, part: Mapping[str, Any]) -> None:
        """Put the pieces of a tool call together; it is shown whole, once its arguments have been looked at."""
        call = self.calls.setdefault(int(part.get("index", len(self.calls))), {"id": "", "type": "function", "function": {}})
        call["id"] = part.get("id") or call["id"]
        function = part.get("function") or {}
        for name in ("name", "arguments"):
            call["function"][name] = call["function"].get(name, "") + (function.get(name) or "")

    def close(self) -> str:
        """The end of the answer: what was held back until now, as far as it may be shown."""
        if self.verdict.stops:
            return ""
        rest = ""
        if self._held:
            rest = self._prompt.answer_of(self.said) or ""
        for call in self.calls.values():
            self._check_call(call["function"])
        return self._show(rest, last=True)

    def _check_call(self, function: dict[str, Any]) -> None:
        """The arguments of a tool call are an answer of their own to the guardrails."""
        guard = self._new_guard()
        function["arguments"], _ = guard.feed(function["arguments"], last=True)
        if guard.verdict.rules:
            self.call_verdicts.append(guard.verdict)

    def refuse(self) -> None:
        """The answer was blocked: a whole reply says so, a stream ends where it is."""
        self.finish = "content_filter"
        if not self._streamed:
            self.shown = [BLOCKED_OUTPUT]

    def ended(self, *, logprobs: bool) -> Ended:
        blocked = self.verdict.stops
        calls: Sequence[Mapping[str, Any]] = () if blocked else [self.calls[i] for i in sorted(self.calls)]
        # log-probabilities spell the answer out, so they are given only where all of it may be seen
        seen = logprobs and self.verdict.action in ("pass", "flag") and self._prompt.reasoning is None
        entries = {"content": self._logprobs, "refusal": None} if seen and self._logprobs else None
        return Ended(self.index, self.text, self.finish or "stop", calls, entries)
