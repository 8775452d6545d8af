"""What a person does not see and a tokenizer does: invisible characters, and letters that look like those of another script."""

from __future__ import annotations

import re
import unicodedata

from llm_pipeline.curation.poison_policy import Finding, PoisonPolicy

_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_SELECTORS = re.compile("[\ufe00-\ufe0e\U000e0100-\U000e01ef]{2,}")
_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff\u180e"
_ZERO_WIDTH_BETWEEN_LETTERS = re.compile(f"(?<=[A-Za-z0-9 ])[{_ZERO_WIDTH}](?=[A-Za-z0-9 ])")
_INVISIBLE = re.compile(f"[{_ZERO_WIDTH}\u00ad\u202a-\u202e\u2066-\u2069\ufe00-\ufe0f\U000e0000-\U000e01ef]")
LOOK_ALIKES = {
    **dict(zip("асԁеһіјкӏорԛѕтуѵԝхАВСЕҺІЈКМНОРԚЅТѴԜХҮ", "acdehijklopqstuvwxABCEHIJKMHOPQSTVWXY", strict=True)),
    **dict(zip("αεικνορτυχϲϳΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹ", "aeiknoptuxcjABEZHIKMNOPTYXC", strict=True)),
    **dict(zip("օոսցհաՕՏԼ", "onughwOSL", strict=True)),
    **dict(zip("ᎪᏴᏟᎠᎬᎻᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᏃ", "ABCDEHJKLMPRSTVWZ", strict=True)),
}
"""Cyrillic, Greek, Armenian and Cherokee letters and the Latin ones they are confusable with (Unicode Technical Standard 39)."""
_FROM_LOOK_ALIKE = str.maketrans(LOOK_ALIKES)
_LOOK_ALIKE = "".join(LOOK_ALIKES)
_SEAM = re.compile(f"[A-Za-z][{_LOOK_ALIKE}]|[{_LOOK_ALIKE}][A-Za-z]")
_WORD = re.compile(r"[^\W\d_]{4,}")
"""Shorter ones are units and formulas."""
_GREEK = re.compile("[\u03b1-\u03c9]")
_OTHER_SCRIPT = re.compile("[\u0370-\u052f\u0531-\u0587\u13a0-\u13f5]")


def hidden_unicode(text: str, policy: PoisonPolicy) -> Finding | None:
    """Characters that a person cannot see and a tokenizer can (Boucher et al. 2022, Bad Characters; Trojan Source, CVE-2021-42574)."""
    if text.isascii():
        return None
    tags = sum(len(run) for run in _TAGS.findall(_FLAG.sub("", text)))
    if tags:
        return Finding("hidden_unicode", float(tags), "tag characters")
    bidi = len(_BIDI.findall(text))
    if bidi and not _RIGHT_TO_LEFT.search(text):
        return Finding("hidden_unicode", float(bidi), "bidirectional controls")
    if selectors := _SELECTORS.findall(text):
        return Finding("hidden_unicode", float(sum(map(len, selectors))), "runs of variation selectors")
    if re.search(f"[{_ZERO_WIDTH}]{{{policy.zero_width_run},}}", text):
        return Finding("hidden_unicode", float(policy.zero_width_run), "run of zero-width characters")
    between = len(_ZERO_WIDTH_BETWEEN_LETTERS.findall(text))
    return Finding("hidden_unicode", float(between), "zero-width characters inside words") if between >= policy.zero_width_total else None


def homoglyphs(text: str, policy: PoisonPolicy) -> Finding | None:
    """Words that mix Latin letters with look-alikes of another script, in a text that is not written in that script."""
    if text.isascii() or not _SEAM.search(text):
        return None
    words = [word for word in _WORD.findall(text) if _is_disguised(word)]
    if len(words) < policy.homoglyph_words:
        return None
    foreign = len(_OTHER_SCRIPT.findall(text)) - sum(len(_OTHER_SCRIPT.findall(word)) for word in words)
    latin = sum(c.isascii() and c.isalpha() for c in text)
    if foreign > 0.2 * latin:
        return None
    return Finding("homoglyphs", float(len(words)), "words with look-alike letters of another script")


def _is_disguised(word: str) -> bool:
    """A Greek letter at the edge of a word is a quantity with an index, no disguise."""
    alike = [at for at, c in enumerate(word) if not c.isascii()]
    variable = len(alike) == 1 and _GREEK.match(word[alike[0]]) and alike[0] in (0, len(word) - 1)
    return 0 < len(alike) < len(word) and all(word[at] in LOOK_ALIKES for at in alike) and not variable


def plain(text: str) -> str:
    """The text as it looks: invisible characters gone, tags as the letters they stand for, look-alikes and fancy letters as Latin ones."""
    if text.isascii():
        return text
    spoken = _TAGS.sub(lambda run: "".join(chr(ord(c) - 0xE0000) for c in run.group() if 0xE0020 <= ord(c) <= 0xE007E), text)
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", spoken)).translate(_FROM_LOOK_ALIKE)
