"""Prompts are data (`data/prompts/*.yaml`): the one place that decides what a model sees around a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_pipeline.config import load
from llm_pipeline.store import content_hash


@dataclass(frozen=True)
class Prompt:
    """What is put around a conversation; `grounded` has the fields `{passages}` and `{question}`."""

    grounded: str
    system: str | None = None

    @property
    def id(self) -> str:
        return content_hash(asdict(self))

    def messages(self, history: Sequence[Mapping[str, str]], passages: Sequence[str] = ()) -> list[dict[str, str]]:
        """The chat messages to send: `history` ends with the user's question, which the passages are put in front of."""
        messages = [{"role": m["role"], "content": m["content"]} for m in history]
        if passages:
            messages[-1]["content"] = self.grounded.format(passages="\n".join(passages), question=messages[-1]["content"])
        if self.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        return messages


def load_prompt(path: Path) -> Prompt:
    return load(Prompt, path)
