"""Probabilities of a row's choices from their log-likelihoods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_pipeline.evaluation.generate import Likelihood


def probabilities(choices: Sequence[Likelihood]) -> list[float]:
    """Softmax of the log-likelihoods: what the model believes when one of the choices must be said."""
    scores = -np.array([choice.nll for choice in choices])
    weights = np.exp(scores - scores.max())
    return [float(p) for p in weights / weights.sum()]
