"""How attacks hide from filters that read letters: encodings, look-alike letters, gaps; and the way back.

`reveal` undoes what `DISGUISES` does, so the detector reads the words that the model would understand.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import random
import re
import unicodedata
from collections.abc import Callable

from llm_pipeline.serving.guardrails.spans import HIDDEN

_HIDDEN = re.compile(f"[{HIDDEN}\u200c\u200d]")
_LOOKALIKES = dict(zip("аеорсухівѕјԁһɡαοеіⅼνκτρıﾠАВЕКМНОРСТХІЅЈ", "aeopcyxibsjdhgaoeilvktpi ABEKMHOPCTXISJ", strict=True))
_TO_LATIN = str.maketrans(_LOOKALIKES)
_FROM_LATIN = {"a": "а", "e": "е", "o": "о", "p": "р", "c": "с", "y": "у", "x": "х", "i": "і"}
_LEET = str.maketrans("4310577@$", "aeiosttas")
_TO_LEET = str.maketrans("aeiost", "431057")
_SPACED = re.compile(r"(?<!\w)\w(?:([ ._\-*])\w(?:\1\w){3,})(?!\w)(?:[ ._\-*]{2,5}\w(?:[ ._\-*]\w)+(?!\w))*")
_BASE64 = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{16,}={0,2}(?![\w+/])")
_HEX = re.compile(r"(?<!\w)(?:[0-9a-f]{2}[ :]?){10,}(?!\w)", re.I)
_ESCAPES = re.compile(r"(?:\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|%[0-9a-f]{2}|&#x?[0-9a-f]{2,5};){4,}", re.I)
_LEETED = re.compile(r"\b(?=\w*[a-z])(?=\w*[0-9@$])[a-z0-9@$]{3,}\b", re.I)
_WORDS = re.compile(r"[^\W\d_]+")
_LATIN = re.compile("[A-Za-z]")
_ACCENTS = re.compile("[\u0300-\u036f]")
_KEYWORDS = ("vtaber", "cerivbhf", "vafgehpgvbaf", "cebzcg", "flfgrz", "erirny", "snoevp")
_TURNED = ("snoitcurtsni", "tpmorp", "suoiverp", "erongi", "metsys", "laever", "selur")
_BACKWARDS = re.compile(rf"\b(?:{'|'.join(_TURNED)})\b")
_ODD = re.compile(r"[\d@$%&\\]")
_PAIRS = re.compile("[0-9a-fA-F]{2}(?:[ :]?[0-9a-fA-F]{2}){9}")
_MIXED = re.compile("[0-9@$](?:(?<=[a-zA-Z].)|(?=[a-zA-Z]))[a-zA-Z0-9@$]*")
_GAPS = re.compile(r"([ ._\-*])(?<=\b\w.)\w\1\w\1")


_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{1,6}\U000e007f")
_UNSEEN = "[\u200b-\u200f\u2060-\u2064\ufeff\u00ad\U000e0100-\U000e01ef]"
_JOINED = "[A-Za-z\u00c0-\u052f]"
"""Letters of scripts that need no joiners between them."""
_HIDING = re.compile(
    f"[\U000e0000-\U000e007f\u202d\u202e]|{_UNSEEN}{{4}}|{_JOINED}{_UNSEEN}{{2,3}}{_JOINED}|(?:{_JOINED}{_UNSEEN}){{3}}{_JOINED}"
)
"""Tags, bidirectional overrides, and zero-width characters: four in a row, two between letters, or one after each letter."""
_TURNING = re.compile("[\u202b\u2067]")
_FROM_RIGHT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")


def hides(text: str) -> bool:
    """Whether the text has characters that hide words or show them in another order; those that scripts and emoji need do not, nor
    does a stray one that came along with a copy."""
    if text.isascii():
        return False
    return bool(_HIDING.search(_FLAG.sub("", text)) or (_TURNING.search(text) and not _FROM_RIGHT.search(text)))


def reveal(text: str) -> str:
    """The text in one form of letters, with hidden words made readable."""
    plain = _decoded(letters(text))
    lower = plain.lower()
    if any(map(lower.__contains__, _TURNED)) and _BACKWARDS.search(lower):
        plain = f"{plain} {plain[::-1]}"
    if any(map(lower.__contains__, _KEYWORDS)):
        plain = f"{plain} {codecs.decode(plain, 'rot13')}"
    return plain


def _decoded(text: str) -> str:
    """Without gaps inside words, and with codes and digits that stand for letters replaced by these.

    Most texts have none of it, so before each search that does the work stands a quicker one that finds at least as much.
    """
    gaps = _GAPS.search(text)
    if gaps:
        text = _SPACED.sub(_close, text)
    long = max(map(len, text.split()), default=0) > 15
    if not (gaps or long or _ODD.search(text)):
        return text
    if long:
        text = _BASE64.sub(_decoded_base64, text)
    if _PAIRS.search(text):
        text = _HEX.sub(_decoded_hex, text)
    if "%" in text or "\\" in text or "&" in text:
        text = _ESCAPES.sub(_unescaped, text)
    if (len(_MIXED.findall(text)) > 2 or not text.isascii()) and len(_LEETED.findall(text)) > 2:
        text = _LEETED.sub(lambda found: found[0].lower().translate(_LEET), text)
    return text


def letters(text: str) -> str:
    """Compatibility form without hidden characters; letters that only look Latin become so in words with Latin ones."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", _HIDDEN.sub("", _tags(text)))
    marks = len(_ACCENTS.findall(unicodedata.normalize("NFD", text)))
    if marks > 0.3 * len(text):
        text = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    return _WORDS.sub(lambda word: word[0].translate(_TO_LATIN) if _LATIN.search(word[0]) else word[0], text)


def _tags(text: str) -> str:
    """Tag characters (U+E0020 to U+E007E) spell ASCII that no one sees."""
    return "".join(chr(ord(c) - 0xE0000) if "\U000e0020" <= c <= "\U000e007e" else c for c in text)


def _close(found: re.Match[str]) -> str:
    """ "i g n o r e  a l l": one kind of gap inside words, longer ones between them."""
    gap = found[1]
    words = re.split(rf"[{re.escape(gap)} ._*-]{{2,}}", found[0])
    return " ".join(word.replace(gap, "") for word in words)


def _decoded_base64(found: re.Match[str]) -> str:
    try:
        return _readable(base64.b64decode(found[0] + "=" * (-len(found[0]) % 4), validate=True), found[0])
    except (binascii.Error, ValueError):
        return found[0]


def _decoded_hex(found: re.Match[str]) -> str:
    try:
        return _readable(bytes.fromhex(re.sub("[ :]", "", found[0])), found[0])
    except ValueError:
        return found[0]


def _readable(data: bytes, otherwise: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return otherwise
    return f" {text} " if sum(c.isalpha() or c == " " for c in text) > 0.8 * len(text) else otherwise


def _unescaped(found: re.Match[str]) -> str:
    import html
    from urllib.parse import unquote

    text = re.sub(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4}))", lambda code: chr(int(code[1] or code[2], 16)), found[0], flags=re.I)
    return html.unescape(unquote(text))


def _base64(text: str, chance: random.Random) -> str:
    del chance
    return base64.b64encode(text.encode()).decode()


def _leet(text: str, chance: random.Random) -> str:
    return "".join(c.lower().translate(_TO_LEET) if chance.random() < 0.7 else c for c in text)


def _spaced(text: str, chance: random.Random) -> str:
    gap = chance.choice(" .-_")
    return (
        (gap * 3 if gap == " " else " ").join(gap.join(word) for word in text.split()) if gap == " " else gap.join(text.replace(" ", gap))
    )


def _lookalikes(text: str, chance: random.Random) -> str:
    return "".join(_FROM_LATIN.get(c, c) if chance.random() < 0.5 else c for c in text)


def _invisible(text: str, chance: random.Random) -> str:
    return "".join(c + chance.choice(["\u200b", "", "\u200d", "\u2060"]) for c in text)


def _wide(text: str, chance: random.Random) -> str:
    del chance
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _hex(text: str, chance: random.Random) -> str:
    return chance.choice(["", " "]).join(f"{byte:02x}" for byte in text.encode())


def _rot13(text: str, chance: random.Random) -> str:
    del chance
    return codecs.encode(text, "rot13")


def _backwards(text: str, chance: random.Random) -> str:
    del chance
    return text[::-1]


def _percent(text: str, chance: random.Random) -> str:
    form = chance.choice(["%{:02x}", "\\x{:02x}", "&#{};"])
    return "".join(form.format(byte) for byte in text.encode())


def _cased(text: str, chance: random.Random) -> str:
    return "".join(c.upper() if chance.random() < 0.5 else c.lower() for c in text)


def _typos(text: str, chance: random.Random) -> str:
    """Letters dropped, doubled or swapped in some words."""
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) > 4 and chance.random() < 0.3:
            at = chance.randrange(1, len(word) - 2)
            kinds = (word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + word[at + 1] + word[at] + word[at + 2 :])
            words[i] = chance.choice(kinds)
    return " ".join(words)


DISGUISES: dict[str, Callable[[str, random.Random], str]] = {
    "base64": _base64,
    "leet": _leet,
    "spaced": _spaced,
    "lookalikes": _lookalikes,
    "invisible": _invisible,
    "wide": _wide,
    "hex": _hex,
    "rot13": _rot13,
    "backwards": _backwards,
    "percent": _percent,
    "cased": _cased,
    "typos": _typos,
}
