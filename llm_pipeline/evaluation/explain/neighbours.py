"""Which training turns lie nearest to a question and its answer: embedding attribution, a hint at sources and no proof of influence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.errors import InputError
from llm_pipeline.store import read_jsonl

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Turn:
    """A user's turn of the training data and what the assistant said to it."""

    row: str
    asked: str
    said: str

    @property
    def text(self) -> str:
        """The answer stands first, so that a long context cannot push it out of the embedder's window."""
        return f"{self.said}\n{self.asked}"


@dataclass(frozen=True)
class Neighbour:
    row: str
    asked: str
    said: str
    similarity: float
    """Cosine, 1 for the same text."""
    holds_answer: bool
    """Whether the answer stands in the turn word for word."""


def read_turns(path: Path) -> list[Turn]:
    """Every user turn with its answer, of rows `{id, messages}`."""
    turns = []
    for number, row in enumerate(read_jsonl(path), 1):
        messages = row.get("messages") if isinstance(row, Mapping) else None
        if not isinstance(messages, list) or not all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages):
            raise InputError(f"{path}:{number}: expected the key messages with a list of role and content")
        identity = str(row.get("id", number))
        pairs = pairwise(messages)
        turns += [Turn(identity, str(a["content"]), str(b["content"])) for a, b in pairs if (a["role"], b["role"]) == ("user", "assistant")]
    if not turns:
        raise InputError(f"{path}: no user turn with an answer in it")
    return turns


def nearest(turns: Sequence[Turn], asked: str, said: str, embed: Embed, number: int = 8) -> list[Neighbour]:
    """The turns most like this question and answer, best first, one for each training row."""
    vectors: Any = embed([Turn("", asked, said).text, *(turn.text for turn in turns)])
    similar = vectors[1:] @ vectors[0]
    found: dict[str, Neighbour] = {}
    for i in np.argsort(-similar, kind="stable").tolist():
        turn = turns[i]
        holds = said.strip().casefold() in turn.text.casefold()
        found.setdefault(turn.row, Neighbour(turn.row, turn.asked, turn.said, round(float(similar[i]), 4), holds))
        if len(found) == number:
            break
    return list(found.values())
