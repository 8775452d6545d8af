"""One form for the same text: mojibake undone, Unicode NFC, Unix line ends, no control characters, no blanks that nobody sees."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

_CONTROL = bytes([*range(1, 9), 11, 12, *range(14, 32), 127])
_BLANK = "#" + "".join(filter(str.isspace, map(chr, range(0x3001))))
_ALTERED = re.compile("[\x80-\x9f\x1b\u2028\u2029\ud800-\udfffĲĳŉǱ-ǳǄ-ǌ\ufb00-\ufb06]")
"""What ftfy changes wherever it stands: C1 controls, terminal escapes, line separators, surrogates and ligatures."""
_ROUNDS = 8


def repair(text: str) -> tuple[str, bool]:
    """The text in its normal form, and whether encoding damage was found; a second repair changes nothing.

    Invisible format characters stay: they are evidence for the poison filter. A text with NUL keeps its control characters.
    """
    mended = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
    plain = mended.isascii() and "\x1b" not in mended
    if plain:
        return _tidy(mended), False
    undone = _undone(mended)
    damaged = undone != mended and undone != unicodedata.normalize("NFC", mended)
    before, tidy = mended, _tidy(undone)
    for _ in range(_ROUNDS):
        if tidy == before:
            break
        before, tidy = tidy, _tidy(_undone(tidy))
    return tidy, damaged


def _tidy(text: str) -> str:
    if "\0" not in text:
        text = _without_controls(text)
    if " \n" in text or "\t\n" in text:
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    return text.strip()


def _without_controls(text: str) -> str:
    """Bytes below 128 are never part of another character, and bytes.translate is twenty times as fast as a pattern."""
    data = text.encode("utf-8", "surrogatepass")
    kept = data.translate(None, _CONTROL)
    return text if len(kept) == len(data) else kept.decode("utf-8", "surrogatepass")


def _undone(text: str) -> str:
    """What ftfy makes of the text, NFC included; it is only asked about lines that it could change."""
    text = _mended(text)
    return text if unicodedata.is_normalized("NFC", text) else _mended(unicodedata.normalize("NFC", text))


def _mended(text: str) -> str:
    return "\n".join(map(_fixed, text.split("\n"))) if _ALTERED.search(text) or _suspect().search(text) else text


def _fixed(line: str) -> str:
    if _ALTERED.search(line) or any(_is_bad(line, match) for match in _suspect().finditer(line)):
        import ftfy

        return str(ftfy.fix_text(line, _config()))
    return line


def _is_bad(line: str, match: re.Match[str]) -> bool:
    """Whether ftfy would look at the line because of this place; no pattern of its heuristic is longer than eight characters."""
    return _heuristic().search(line, max(0, match.start() - 8), match.end() + 8) is not None


@cache
def _heuristic() -> re.Pattern[str]:
    """ftfy's own test of mojibake (`ftfy.badness`), for texts of several lines."""
    from ftfy.badness import BADNESS_RE

    return re.compile(BADNESS_RE.pattern, re.VERBOSE | re.MULTILINE)


@cache
def _suspect() -> re.Pattern[str]:
    """Where that test could succeed: a character that is rare outside mojibake, beside another that is not ASCII.

    The only patterns of the heuristic without such a pair are about Â, Ã, Œ and œ.
    """
    from ftfy.badness import MOJIBAKE_CATEGORIES

    names = ("bad", "upper_accented", "box", "start_punctuation", "end_punctuation", "currency", "numeric", "law")
    rare = "".join(MOJIBAKE_CATEGORIES[name] for name in names) + "Ђ°"
    pair = f"[{rare}][^\\x00-\\x7f]+|[^\\x00-\\x7f][{rare}][^\\x00-\\x7f]*"
    return re.compile(f"[ÂÃŒœ]|{pair}")


@cache
def _config() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, remove_control_chars=False, fix_character_width=False, explain=False
    )


def title_of(text: str) -> str:
    """The first line, shortened."""
    line = text.strip().split("\n", 1)[0].strip(_BLANK)
    return line if len(line) <= 100 else line[:99] + "…"
