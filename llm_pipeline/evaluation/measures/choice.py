"""The right choice is the likeliest per character (acc_norm of lm-evaluation-harness: long choices are not at a disadvantage)."""

from __future__ import annotations

import numpy as np

from llm_pipeline.evaluation.measure import Outputs, Row

NEEDS = ("choices",)
COLUMNS = ("choices", "answer")


def score(row: Row, outputs: Outputs) -> float:
    per_character = [-likelihood.nll / max(1, len(text)) for likelihood, text in zip(outputs.choices, row["choices"], strict=True)]
    return float(row["choices"][int(np.argmax(per_character))] == row["answer"])
