"""What is evaluated, wherever it runs: a folder or an OpenAI-compatible address, behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from llm_pipeline.evaluation.generate import Asked, Completion, Generator, Likelihood, Progress


class Responder(Protocol):
    """Answers and likelihoods of one model; `Generator` (local) and `Endpoint` (HTTP) are two."""

    def cannot(self, need: str) -> str | None:
        """Why `answer`, `continuation` (of a plain text), `reference` or `choices` is not to be had; None when it is."""

    def answer(
        self, conversations: Sequence[Asked], *, max_new_tokens: int = 40, progress: Progress | None = None, batch_size: int | None = None
    ) -> list[Completion]: ...

    def likelihoods(self, conversations: Sequence[Asked], references: Sequence[str]) -> list[Likelihood]: ...

    def choices(self, conversations: Sequence[Asked], choices: Sequence[Sequence[str]]) -> list[tuple[Likelihood, ...]]: ...


def is_url(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def open_responder(model: str, *, name: str | None = None, key: str | None = None) -> Responder:
    """The model of a folder, or the one called `name` (default: the first listed) at an address."""
    if is_url(model):
        from llm_pipeline.evaluation.endpoint import Endpoint

        return Endpoint(model, name, key)
    return Generator(Path(model))
