"""Documents that were made to harm the model that reads them: invisible characters, disguised letters, instructions to an AI."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np

from llm_pipeline.curation.poison_policy import QUARANTINED, RULES, BurstPolicy, Finding, Instructions, PoisonPolicy
from llm_pipeline.curation.poison_unicode import hidden_unicode, homoglyphs, plain
from llm_pipeline.curation.quality_lexicon import lexicon
from llm_pipeline.curation.quality_view import HIDDEN, LETTER, LOOK_ALIKE, View

__all__ = [
    "QUARANTINED",
    "RULES",
    "BurstPolicy",
    "Finding",
    "Instructions",
    "PoisonPolicy",
    "findings",
    "hidden_instruction",
    "hidden_unicode",
    "homoglyphs",
]
AROUND = 200
"""Characters before and behind an anchor in which its patterns are looked for."""
_ENCODED_LENGTH = 40
_ENCODED = re.compile(rf"[A-Za-z0-9+/]{{{_ENCODED_LENGTH},}}={{0,2}}")


def findings(view: View, policy: PoisonPolicy) -> dict[int, Finding]:
    """What is suspect about the texts of a view, by their numbers; a text counts under the first of RULES."""
    disguised = {at: view.text(at) for at in _disguised(view)}
    found = {**_undressed(disguised, policy), **_instructions(view, policy)}
    for at, text in disguised.items():
        finding = hidden_unicode(text, policy) or found.get(at) or homoglyphs(text, policy)
        if finding:
            found[at] = finding
    return found


def hidden_instruction(text: str, policy: PoisonPolicy) -> Finding | None:
    """An instruction aimed at the model that reads the text (indirect prompt injection, Greshake et al. 2023), however it is dressed up."""
    return _undressed({0: text}, policy).get(0)


def _undressed(texts: Mapping[int, str], policy: PoisonPolicy) -> dict[int, Finding]:
    """Instructions in texts as they look to the eye, and in what is encoded in them."""
    visible = {at: plain(text) for at, text in texts.items()}
    layers = [(at, layer) for at, text in visible.items() for layer in (text, *_decoded(text))]
    found = _instructions(View([layer for _, layer in layers]), policy) if layers else {}
    return {layers[number][0]: finding for number, finding in reversed(found.items())}


def _instructions(view: View, policy: PoisonPolicy) -> dict[int, Finding]:
    """Instructions in plain sight by text: patterns of a family near its anchors."""
    found: dict[int, Finding] = {}
    anchors, families, patterns = _families(policy.instructions)
    places: dict[tuple[int, str], list[int]] = defaultdict(list)
    for token, phrase in sorted(zip(*(column.tolist() for column in lexicon(anchors).find(view)), strict=True)):
        for name in families[phrase]:
            places[int(view.tokens.doc[token]), name].append(int(view.tokens.start[token]))
    for (at, name), starts in places.items():
        for first, last in _runs(starts) if at not in found else ():
            if patterns[name].search(view.between(at, first - AROUND, last + AROUND).lower()):
                found[at] = Finding("hidden_instruction", 1.0, f"{name}, near character {first - view.first(at)}")
                break
    return found


def _runs(starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last of places that are close together, so that no text is searched twice."""
    first = last = starts[0]
    for start in starts[1:]:
        if start > last + AROUND:
            yield first, last
            first = start
        last = start
    yield first, last


def _disguised(view: View) -> list[int]:
    """Texts with invisible or fancy characters, with a look-alike beside a Latin letter, or with what could be encoded."""
    alike = np.flatnonzero(view.is_a(LOOK_ALIKE))
    beside = np.concatenate([alike[alike > 0] - 1, alike + 1])  # behind every text stands a line end
    seams = beside[(view.classes[beside] & LETTER > 0) & (view.codes[beside] < 0x80)]
    strange = view.documents_at(np.concatenate([np.flatnonzero(view.is_a(HIDDEN)), seams]))
    words = view.words
    long = np.flatnonzero(words.length >= _ENCODED_LENGTH)
    encoded = [at for at in long.tolist() if _ENCODED.search(view.text_of(int(words.start[at]), int(words.end[at])))]
    return np.unique(np.concatenate([strange, words.doc[encoded]])).tolist()


def _decoded(text: str) -> Iterator[str]:
    for match in _ENCODED.finditer(text):
        raw = match.group().rstrip("=")
        try:
            yield base64.b64decode(raw[: len(raw) // 4 * 4]).decode("utf-8")
        except ValueError:
            continue


@cache
def _families(instructions: tuple[Instructions, ...]) -> tuple[tuple[str, ...], list[list[str]], dict[str, re.Pattern[str]]]:
    """All anchors, the names of the families of each, and what is looked for by family."""
    by_anchor: dict[str, list[str]] = defaultdict(list)
    for family in instructions:
        for anchor in family.anchors:
            by_anchor[anchor].append(family.name)
    patterns = {family.name: re.compile("|".join(f"(?:{pattern})" for pattern in family.patterns)) for family in instructions}
    return tuple(by_anchor), list(by_anchor.values()), patterns
