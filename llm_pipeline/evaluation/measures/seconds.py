"""Seconds to the whole answer, with median, p95 and tokens per second."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_pipeline.evaluation.measure import Answered, Outputs, Row

LOWER_IS_BETTER = True


def score(row: Row, outputs: Outputs) -> float | None:
    return outputs.answer.seconds if outputs.answer else None


def corpus(answered: Answered) -> dict[str, Any]:
    """Value: the 95th percentile."""
    answers = [outputs.answer for _, outputs in answered if outputs.answer]
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    tokens = sum(answer.tokens for answer in answers if answer.seconds is not None)
    p50, p95 = np.percentile(seconds, [50, 95]) if seconds else (float("nan"), float("nan"))
    rate = round(tokens / sum(seconds), 3) if sum(seconds) else None
    return {"value": round(float(p95), 6), "what": "p95", "p50": round(float(p50), 6), "tokens_per_second": rate}
