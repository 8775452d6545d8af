"""The offline detector: a linear model over hashed features, read with numpy alone (one file of numbers, no pickle)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import DATA
from llm_pipeline.serving.guardrails.disguise import reveal
from llm_pipeline.serving.guardrails.features import NOTHING, VERSION, Ids, Meanings, features_of, numbers, words_of

SHIPPED = DATA / "models" / "guard"
HEADS = ("attack", "jailbreak", "harmful", "indirect")
"""Attack or not; of attacks: jailbreak or injection; a harmful wish or not; orders in a retrieved text or not."""
STRETCHES = (4000, 32)
"""Words of a stretch that is judged by itself: the whole text, and each small part of it."""
SOFT = 4.0
LONGER = 0.3
"""How much more it takes to call a longer text an attack, times the logarithm of its stretches: the largest of many is high by chance."""
_LENIENT = [0, 3]
"""The heads that this holds for."""
_LONGEST = 12000


@dataclass(frozen=True)
class LinearDetector:
    """`weights` (heads, features) are whole numbers times `scales`; a head's score is 0.5 at its threshold."""

    weights: NDArray[np.int8]
    scales: NDArray[np.float32]
    biases: NDArray[np.float32]
    meanings: Meanings

    @cached_property
    def _together(self) -> NDArray[np.uint32]:
        """The heads' weights of a feature side by side, so that they are read at once."""
        together = np.ascontiguousarray(self.weights.T).view(np.uint32).ravel()
        together[NOTHING] = 0
        return together

    @cached_property
    def _lines(self) -> list[tuple[float, float]]:
        """Scale and bias of each head."""
        return list(zip(self.scales.tolist(), self.biases.tolist(), strict=True))

    def turn(self, text: str) -> Mapping[str, float]:
        """Of what a user says: the likelier of injection and jailbreak, and harm."""
        attack, jailbreak, harmful, _ = self.logits(text)
        name = "input:jailbreak" if jailbreak > 0 else "input:injection"
        return {name: sigmoid(attack), "input:harmful": sigmoid(harmful)}

    def passage(self, text: str) -> float:
        """Of a retrieved text: the worst stretch of it."""
        return sigmoid(self.logits(text)[3])

    def logits(self, text: str) -> list[float]:
        """Of every head the largest over the text's stretches."""
        words = words_of(reveal(text[:_LONGEST]))
        if len(words) <= STRETCHES[-1]:
            return self._of_few(words)
        read = features_of(words, self.meanings)
        weights = self._weights(read.ids)
        at_place = np.stack([np.bincount(read.places, row, read.words) for row in weights.T])
        upto = np.concatenate([np.zeros((len(HEADS), 1)), np.cumsum(at_place, axis=1)], axis=1)
        starts, ends = _stretches(read.words)
        sums = (upto.take(ends, 1) - upto.take(starts, 1)) / np.sqrt(ends - starts + SOFT)
        every = sums * self.scales[:, None] + self.biases[:, None]
        every[_LENIENT] -= LONGER * math.log(len(starts) - 1)
        largest: list[float] = every.max(axis=1).tolist()
        return largest

    def _of_few(self, words: Sequence[str]) -> list[float]:
        """The same for a text of one stretch, in fewer steps."""
        ids = numbers(words, self.meanings)[0]
        ids.sort()
        once = np.empty(len(ids), np.float32)
        once[0] = 1
        np.not_equal(ids[1:], ids[:-1], out=once[1:])
        root = math.sqrt(len(words) + SOFT)
        heads = zip((once @ self._weights(ids)).tolist(), self._lines, strict=True)
        return [total / root * scale + bias for total, (scale, bias) in heads]

    def _weights(self, ids: Ids) -> NDArray[np.float32]:
        """The weights of features, a column for each head."""
        return self._together.take(ids).view(np.int8).reshape(-1, len(HEADS)).astype(np.float32)


@lru_cache(maxsize=4096)
def _stretches(words: int) -> tuple[Ids, Ids]:
    """Where the stretches of a text begin and end; from one to the next it is half a stretch."""
    starts, ends = [], []
    for long in STRETCHES:
        last = max(words - long, 0)
        begin = np.minimum(np.arange(0, last + long // 2, long // 2), last)
        starts.append(begin)
        ends.append(np.minimum(begin + long, words))
    return np.concatenate(starts), np.concatenate(ends)


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(value, -30.0), 30.0)))


@cache
def load_detector(folder: Path = SHIPPED) -> LinearDetector:
    """The detector of a folder with `guard.npz`."""
    path = folder / "guard.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            if (made_for := int(stored["version"])) != VERSION:
                raise ConfigError(
                    f"{path}: made for features {made_for}, expected {VERSION}: train it anew with `llm-pipeline guard --train`"
                )
            meanings = Meanings(stored["words"], stored["classes"])
            weights = np.ascontiguousarray(stored["weights"].T).T  # as they are read, so that there is one copy of them
            return LinearDetector(weights, stored["scales"], stored["biases"], meanings)
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: not a detector of `llm-pipeline guard --train`: {error}") from error


@dataclass(frozen=True)
class TransformersDetector:
    """A text classifier of the transformers library in a folder: any label whose name says attack counts as one."""

    model: Any

    def turn(self, text: str) -> Mapping[str, float]:
        return {"input:injection": self.passage(text)}

    def passage(self, text: str) -> float:
        found = self.model(text[:_LONGEST], top_k=None, truncation=True)
        return float(sum(label["score"] for label in found if label["label"].lower() in _ATTACKS))


_ATTACKS = {"injection", "jailbreak", "malicious", "attack", "unsafe", "label_1", "1"}


@cache
def open_detector(folder: str) -> LinearDetector | TransformersDetector:
    """The detector that a policy names: empty for the shipped one."""
    path = Path(folder) if folder else SHIPPED
    if not (path / "config.json").exists():
        return load_detector(path)
    labels = set(map(str.lower, json.loads((path / "config.json").read_text("utf-8")).get("id2label", {"1": "label_1"}).values()))
    if not labels & _ATTACKS:
        raise ConfigError(f"{path}: none of its labels {sorted(labels)} says attack; expected one of {sorted(_ATTACKS)}")
    from transformers import pipeline

    return TransformersDetector(pipeline("text-classification", model=str(path), device="cpu"))
