"""The order of what a search found, decided by looking at question and passage together.

The light reranker compares tokens (late interaction, Khattab and Zaharia 2020): each word of the question with the word of the
passage that is nearest to it, rare words counting more. The passages' token vectors were made when they were indexed, so a
question costs one or two milliseconds. A cross-encoder reads both texts with a model of its own: slower by far, for any language.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.config import load
from llm_pipeline.errors import InputError, MissingError
from llm_pipeline.paths import DATA
from llm_pipeline.retrieval.embedding import TOKEN_DIMENSIONS, Question, Vectors, directions

WEIGHTS = DATA / "models" / "reranker.yaml"
Row = Mapping[str, Any]


class Reranker(Protocol):
    def __call__(self, text: str, question: Question, rows: Sequence[Row]) -> Sequence[float]:
        """A score for each of the rows (indexed_text, tokens, vector, and `_score` of the full-text search), higher is better."""


@dataclass(frozen=True)
class Weights:
    """What each feature of `features` counts, and where that was learnt."""

    late: float
    text: float
    whole: float = 0.0
    trained: str = ""


class LightReranker:
    """Late interaction, full-text score and cosine of the candidates; `documents` say how rare each token is among `count` chunks."""

    def __init__(self, documents: NDArray[np.int64], count: int, weights: Weights | None = None) -> None:
        self.weights = weights or load(Weights, WEIGHTS)
        self._rarity = np.log1p((count - documents + 0.5) / (documents + 0.5))

    def __call__(self, text: str, question: Question, rows: Sequence[Row]) -> Sequence[float]:
        return (self.features(question, rows) @ np.array([self.weights.late, self.weights.text, self.weights.whole])).tolist()

    def features(self, question: Question, rows: Sequence[Row]) -> Vectors:
        """Per row the late interaction, weighted by rarity, the share of the best full-text score, and the cosine of the whole texts."""
        rarity = self._rarity[np.minimum(question.pieces, len(self._rarity) - 1)]
        scores = np.array([row.get("_score") or 0.0 for row in rows])
        late = late_interaction(directions(question.tokens), rarity, [row["tokens"] for row in rows])
        whole = np.stack([row["vector"] for row in rows]).astype(np.float32) @ question.vector
        return np.column_stack([late, scores / max(scores.max(initial=0.0), 1e-9), whole])


def late_interaction(question: Vectors, rarity: NDArray[np.float64], passages: Sequence[bytes]) -> NDArray[np.float64]:
    """Per passage the mean over the question's tokens of the highest cosine with one of the passage's, weighted by `rarity`."""
    tokens = [np.frombuffer(passage, np.int8).reshape(-1, TOKEN_DIMENSIONS) for passage in passages]
    sizes = np.array([len(each) for each in tokens])
    result = np.zeros(len(tokens))
    filled = np.flatnonzero(sizes)
    if not len(question) or not len(filled):
        return result
    cosines = question @ directions(np.concatenate(tokens)).T
    nearest = np.maximum.reduceat(cosines, np.cumsum(sizes[filled]) - sizes[filled], axis=1)
    result[filled] = rarity @ nearest / max(float(rarity.sum()), 1e-9)
    return result


class CrossEncoderReranker:
    """A cross-encoder of sentence-transformers by local folder or hub id; calls may come from several threads, they take turns."""

    def __init__(self, model: str, *, max_tokens: int = 512) -> None:
        from sentence_transformers import CrossEncoder

        try:
            self._model = CrossEncoder(model, device="cpu", max_length=max_tokens, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise MissingError(
                f"reranker: expected light, a YAML file, or a cross-encoder's folder or hub id, received {model!r}: {error}"
            ) from error
        self._lock = threading.Lock()

    def __call__(self, text: str, question: Question, rows: Sequence[Row]) -> Sequence[float]:
        with self._lock:
            scores = self._model.predict([(text, row["indexed_text"]) for row in rows], show_progress_bar=False)
        return [float(score) for score in scores]


def fit(groups: Sequence[tuple[Vectors, int]], *, penalty: float = 1.0, steps: int = 50) -> NDArray[np.float64]:
    """Weights under which the right candidate of each group is the likeliest (softmax over the group, ridge penalty, Newton's method).

    A group is the candidates' features of shape (candidates, features) and the right one's row.
    """
    if not groups:
        raise InputError("no question whose relevant passage is among its candidates: there is nothing to learn from")
    spread = np.concatenate([features for features, _ in groups]).std(axis=0) + 1e-9
    contrasts = [(features - features[right]) / spread for features, right in groups]
    weights = np.zeros(len(spread))
    for _ in range(steps):
        loss, gradient, curvature = _loss(contrasts, weights, penalty)
        step = np.linalg.solve(curvature, gradient)
        while _loss(contrasts, weights - step, penalty)[0] > loss and np.abs(step).max() > 1e-9:
            step /= 2
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights / spread


def _loss(contrasts: Sequence[NDArray[np.float64]], weights: NDArray[np.float64], penalty: float) -> tuple[float, Any, Any]:
    """Penalised negative log-likelihood with gradient and Hessian; `contrasts` are features less those of the right candidate."""
    loss, gradient, curvature = penalty * float(weights @ weights), 2 * penalty * weights, 2 * penalty * np.eye(len(weights))
    for features in contrasts:
        z = features @ weights
        top = float(z.max())
        chance = np.exp(z - top)
        loss += top + float(np.log(chance.sum()))
        chance /= chance.sum()
        mean = chance @ features
        gradient = gradient + mean
        curvature = curvature + (features * chance[:, None]).T @ features - np.outer(mean, mean)
    return loss, gradient, curvature


def open_reranker(name: str | Path, documents: NDArray[np.int64], count: int) -> Reranker:
    """`light`, a YAML file of weights for it, or a cross-encoder's folder or hub id."""
    if str(name) == "light":
        return LightReranker(documents, count)
    if str(name).endswith((".yaml", ".yml")):
        return LightReranker(documents, count, load(Weights, Path(name)))
    return CrossEncoderReranker(str(name))
