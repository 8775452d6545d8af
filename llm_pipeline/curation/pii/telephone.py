"""Telephone numbers: candidates by shape, judged by libphonenumber's rules, by grouping, or by words near them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import phonenumbers

Found = tuple[int, int, float]
_CANDIDATE = re.compile(
    r"(?<![\w.$€£#/-])(?<![0-9],)(?:(?:\+|00)[0-9]{1,3}[ .-]?)?(?:\(0?[0-9]{0,5}\)[ .-]?){0,2}[0-9]{1,15}(?:(?:[ .-]|\) ?)[0-9]{1,8}){0,7}"
    r"(?: ?(?:x|ext\.?|extension) ?[0-9]{1,6})?(?!\w|[.,:][0-9]|-[0-9]|%)"
    r"|(?<![\w.$€£#/-])1[ .-]\(?[2-9][0-9]{2}\)?[ .-][0-9]{3}[ .-][0-9]{4}"
    r"(?:x[0-9]{1,6})?(?!\w)",
    re.I,
)
_EXTENSION = re.compile(r" ?(?:x|ext\.?|extension) ?[0-9]{1,6}$", re.I)
_DATE = re.compile(r"(?:19|20)\d\d[-. ]\d{1,2}[-. ]\d{1,2}|\d{1,2}[-. ]\d{1,2}[-. ](?:19|20)\d\d")
_NANP = re.compile(r"(?:1[ .-])?\(?[2-9][0-9]{2}\)?[ .-]{1,2}[0-9]{3}[ .-][0-9]{4}|[2-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-][0-9]{4}")
_WORDS = re.compile(
    r"\b(?:phone|telephone|tel|cell|cellphone|mobile|call|calls|called|ring|dial|reach|text|sms|whatsapp|fax|landline|hotline|callback"
    r"|telefon\w*|handy\w*|rufnummer|téléphone|portable|teléfono|móvil|telefono|cellulare)\b",
    re.I,
)


def phone_rule(regions: Sequence[str]) -> tuple[tuple[str, ...], Callable[[str], Iterator[Found]]]:
    """The prefilter and the finder for numbers of any country with +, and national ones of `regions`."""

    def find(text: str) -> Iterator[Found]:
        for match in _CANDIDATE.finditer(text):
            value = match.group()
            score = _score(value, text[max(0, match.start() - 60) : match.start()], text[match.end() : match.end() + 24], regions)
            if score:
                yield match.start(), match.end(), score

    return (r"[0-9][0-9 ().+-]{5,}[0-9]",), find


def _score(value: str, before: str, after: str, regions: Sequence[str]) -> float:
    number = _EXTENSION.sub("", value)
    digits = re.sub(r"\D", "", number)
    if not 7 <= len(digits) <= 15 or _DATE.fullmatch(number):
        return 0.0
    if number.startswith("+"):
        return 0.9 if _possible(number, None) or _WORDS.search(before) else 0.0
    if number.startswith("00") and len(digits) >= 10 and _possible("+" + digits[2:], None):
        return 0.8
    if "(" in number and len(digits) >= 9:
        return 0.8
    if _NANP.fullmatch(number):
        return 0.75
    separated = re.search(r"[ .-]", number) is not None
    if number.startswith("0") and separated and len(digits) >= 9 and any(_valid(number, region) for region in regions):
        return 0.75
    words = list(_WORDS.finditer(before))
    if words:
        return 0.82 - (len(before) - words[-1].end()) / 1000
    return 0.7 if len(digits) >= 9 and _WORDS.search(after) else 0.0


def _possible(number: str, region: str | None) -> bool:
    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False


def _valid(number: str, region: str) -> bool:
    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
    except phonenumbers.NumberParseException:
        return False
