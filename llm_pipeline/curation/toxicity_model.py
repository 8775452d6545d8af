"""The numbers of alt-profanity-check's model (TF-IDF and calibrated linear SVMs) without scikit-learn, which takes a second to load.

The package stores its model as pickles. Only their numbers are read: no other class or function that they name is looked up.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_pipeline.errors import MissingError

Floats = npt.NDArray[np.float64]
_WORD = re.compile(r"\b\w\w+\b")
_NUMBERS = {
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    *(("numpy", name) for name in ("dtype", "float64", "ndarray")),
    *((module, "scalar") for module in ("numpy._core.multiarray", "numpy.core.multiarray")),
}
"""What numbers and arrays are made with."""


@dataclass(frozen=True)
class AbuseModel:
    """Classifiers by row: a weight for every word of the vocabulary, an intercept, and the slope and offset of the calibration."""

    vocabulary: dict[str, int]
    rarity: Floats
    weights: Floats
    intercepts: Floats
    slopes: Floats
    offsets: Floats

    def probabilities(self, texts: Iterable[str]) -> list[float]:
        """How likely each text is abusive."""
        known, size = self.vocabulary, len(self.vocabulary)
        words = [[known[word] for word in _WORD.findall(text.lower()) if word in known] for text in texts]
        if not words:
            return []  # what guardrails mostly ask, for every request
        text_of = np.repeat(np.arange(len(words)), [len(found) for found in words])
        cells, counts = np.unique(text_of * size + np.array([at for found in words for at in found], np.int64), return_counts=True)
        text, word = np.divmod(cells, size)
        values = self.rarity[word] * counts
        length = np.sqrt(np.bincount(text, values**2, minlength=len(words)))
        values /= length[text]
        weighed = np.array([np.bincount(text, weights[word] * values, minlength=len(words)) for weights in self.weights])
        return list(self._calibrated(weighed).tolist())

    def of_single_words(self) -> dict[str, float]:
        """How likely a text of one word is abusive, for all words of the vocabulary."""
        found = self._calibrated(self.weights)
        return {word: float(found[at]) for word, at in self.vocabulary.items()}

    def _calibrated(self, weighed: Floats) -> Any:
        """The mean of the classifiers' probabilities (Platt 1999), given what the words weigh with each of them."""
        decisions = weighed.T + self.intercepts
        return (1.0 / (1.0 + np.exp(self.slopes * decisions + self.offsets))).mean(axis=-1)


@cache
def load_model() -> AbuseModel:
    """The model that the package brings."""
    package = find_spec("profanity_check")
    if package is None or package.origin is None:
        raise MissingError("the toxicity model: expected the package alt-profanity-check, which holds it")
    folder = Path(package.origin).parent / "data"
    vectors, classifier = _read(folder / "vectorizer.joblib"), _read(folder / "model.joblib")
    members = classifier.calibrated_classifiers_
    machines = [member.estimator for member in members]
    calibrators = [member.calibrators[0] for member in members]
    return AbuseModel(
        {word: int(at) for word, at in vectors.vocabulary_.items()},
        np.asarray(vectors._tfidf.idf_, np.float64),
        np.array([machine.coef_[0] for machine in machines]),
        np.array([machine.intercept_[0] for machine in machines]),
        np.array([calibrator.a_ for calibrator in calibrators]),
        np.array([calibrator.b_ for calibrator in calibrators]),
    )


class _Plain:
    """Stands for any class of scikit-learn: what its pickle sets, and nothing else."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _read(path: Path) -> Any:
    """What a file of joblib's holds, every class outside _NUMBERS as _Plain."""
    reader: Any = importlib.import_module("joblib.numpy_pickle").NumpyUnpickler

    class Reader(reader):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(module, name) if (module, name) in _NUMBERS else _Plain

    with path.open("rb") as file:
        return Reader(str(path), file, True).load()
