"""Expected calibration error over ten equal bins of confidence (Guo et al. 2017), with the bins of the reliability diagram."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_pipeline.evaluation.measure import Answered
from llm_pipeline.evaluation.probability import probabilities

NEEDS = ("choices",)
COLUMNS = ("choices", "answer")
LOWER_IS_BETTER = True
BINS = 10


def corpus(answered: Answered) -> dict[str, Any]:
    found = [(row, probabilities(outputs.choices)) for row, outputs in answered]
    confidence = np.array([max(p) for _, p in found])
    right = np.array([row["choices"][int(np.argmax(p))] == row["answer"] for row, p in found], float)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {
            "from": n / BINS,
            "n": int((place == n).sum()),
            "confidence": round(float(confidence[place == n].mean()), 6),
            "accuracy": round(float(right[place == n].mean()), 6),
        }
        for n in sorted(set(place.tolist()))
    ]
    error = sum(abs(b["confidence"] - b["accuracy"]) * b["n"] for b in bins) / len(answered)
    return {"value": round(error, 6), "accuracy": round(float(right.mean()), 6), "bins": bins}
