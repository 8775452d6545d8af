"""Planted secrets: their candidates, the level of exposure that chance does not reach, and the comparison with controls."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import log2
from typing import Any

import numpy as np

from llm_pipeline.errors import InputError

ALPHA = 0.05
CANDIDATES = 400
Row = Mapping[str, Any]


def candidates(secret: str, count: int = CANDIDATES) -> list[str]:
    """The secret first, then others of its form: digits for digits, letters for letters; the same ones for the same secret."""
    r = random.Random(secret)
    found = {secret: None}
    for _ in range(50 * count):
        if len(found) == count:
            return list(found)
        found["".join(_other(character, r) for character in secret)] = None
    raise InputError(f"canary {secret!r}: fewer than {count} texts have its form; a longer secret is needed")


def _other(character: str, r: random.Random) -> str:
    if character.isdigit():
        return r.choice("0123456789")
    if character.isalpha():
        other = r.choice("abcdefghijklmnopqrstuvwxyz")
        return other.upper() if character.isupper() else other
    return character


def alarm_bits(canaries: int, alpha: float = ALPHA) -> float:
    """P(exposure >= b) = 2^-b for a secret that was never seen, so among `canaries` of them one is this loud with probability `alpha`."""
    return log2(max(1, canaries) / alpha)


def against_controls(scores: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    """Mean of the inserted rows, mean of the controls (`inserted: 0`), and as value their difference."""
    seen, controls = ([value for row, value in scores if bool(row["inserted"]) is wanted] for wanted in (True, False))
    if not seen or not controls:
        raise InputError(f"memorisation: {len(seen)} inserted rows and {len(controls)} controls (inserted: 0), expected some of both")
    inserted, control = float(np.mean(seen)), float(np.mean(controls))
    return {
        "value": round(inserted - control, 6),
        "what": "more than the controls",
        "inserted": round(inserted, 6),
        "controls": round(control, 6),
    }
