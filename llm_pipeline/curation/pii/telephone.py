"""Telephone numbers: candidates by shape, judged by libphonenumber's rules, by grouping, or by words near them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import phonenumbers

from llm_pipeline.curation.pii.context import OTHER, Context, arithmetic
from llm_pipeline.curation.pii.windows import Finder, Found, Look

_CANDIDATE = re.compile(
    r"(?<![\w.$€£#/+-])(?<![0-9],)(?<![0-9] [*/=^-])(?:(?:\+ ?|00)[0-9]{1,3}[ .-]?)?(?:\(0?[0-9]{0,5}\)[ .-]?){0,2}"
    r"(?:0[0-9]{2,5} / )?[0-9]{1,15}"
    r"(?:(?:[ .-]|\) ?|/| - )[0-9]{1,8}){0,7}(?: ?(?:x|#|ext\.?|extension) ?[0-9]{1,6})?(?!\w|[.,:/][0-9]|-[0-9A-Za-z]|%|\()",
    re.I,
)
_EXTENSION = re.compile(r" ?(?:x|#|ext\.?|extension) ?[0-9]{1,6}$", re.I)
_DATE = re.compile(
    r"[0-9]{5}-[0-9]{4}|\((?:19|20)\d\d\).*|(?:19|20)\d\d ?[-/] ?(?:19|20)\d\d"
    r"|(?:(?:19|20)\d\d([-. /])\d{1,2}\1\d{1,2}|\d{1,2}([-. /])\d{1,2}\2(?:19|20)?\d\d)(?:[ -]\d{1,2})?"
)
"""Dates, spans of years, and US postcodes."""
_NANP = re.compile(r"(?:(?:001-|\+?1[ .-]?)?)(?:\([2-9][0-9]{2}\)[ .-]?|[2-9][0-9]{2}([ .-]))[2-9][0-9]{2}(?:(?(1)\1|[ .-]))[0-9]{4}")
_TRUNK = re.compile(r"\([0-9]{2,5}\)[ .-]?[0-9]{2,8}(?:[ .-][0-9]{2,8}){0,3}")
_STRONG = (
    "phone, phones, telephone, tel, cell, cellphone, mobile, mob, dial, sms, fax, landline, hotline, callback, phone number, "
    "contact number, telefon, telefonnummer, handy, handynummer, "
    "mobil, rufnummer, téléphone, telephone, portable, numéro de téléphone, teléfono, telefono, móvil, movil, cellulare, telefone, "
    "celular, "
    "telemóvel, telefoon, telefoonnummer, mobiel, numer telefonu, telefonu, komórka, puhelin, puhelinnumero, mobilnummer, tlf, anrufen, "
    "caller, caller id, voicemail, switchboard, helpline, durchwahl, standard téléphonique, festnetz, fixe, fijo, fisso, joignable, "
    "joindre, llamarme, llámame, llamarle, llámenos, contáctame, chiamami, chiamatemi, bereikbaar, vast nummer, stacjonarny, "
    "zadzwonić, zadzwoń, dzwonić, ligue, telemóvel, fone, numéro de portable, kontaktnummer, puh, natel, tél, tlfn, telefonnr, "
    "msisdn, whats app, mobilnr, faks, telefax, hotline nummer, numer kontaktowy, dial in, direct line, viber"
)
_WEAK = (
    "call, calls, called, calling, ring, rang, reach, reached, reachable, text, texted, txt, contact, contacted, number is, my number, "
    "best number, "
    "nummer, numéro, número, llamar, appeler, appelle, appelez, rappeler, rappelez, chiamare, rückfragen, rückruf, zurückrufen, "
    "erreichbar, "
    "bellen, bel, ligar, kontakt, contacto, contatto, contactar, contacter, messages, message me, ping me, reach me, "
    "dzwoń, ringa, soita, numero, numer"
)
_CONTEXT = Context({"phone": _STRONG, "call": _WEAK})
_GROUPED = re.compile(r"[0-9]{3}[ .-][0-9]{4}|[0-9(+][0-9() .+-]{8,}|0[0-9]{1,5} ?/ ?[0-9][0-9 -]{4,}")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:([ .])[0-9]{3})(?:\1[0-9]{3})*")
_LABEL = re.compile(
    r"(?:^|[\n|·•,;] ?)(?:(?:T|P|F|M|H|W|C|Ph|Mob) ?[:.] ?)$|\b(?:T ?e ?[l1I]|P ?h ?o ?n ?e|M ?o ?b ?i ?[l1I] ?e) ?\.? ?: {0,3}$"
)
"""Before a number in a signature: "T: 040/...", or as a scanner reads it: "Te1:", "T e l . :"."""
_INITIAL, _LINE_END = re.compile(r"(?:^|\n)[TMFPD] $"), re.compile(r"[ \t\r]*(?:\n|$)")
"""A line of a signature that is a letter and a number: "M 601 54 98 00"."""
_ADJACENT = 40
"""Words of the second sort speak of bare digits within so many characters: "call me at", not "(most recent call last)" lines above."""
_BESIDE = 16
"""From so near even three groups of three digits are no amount: "call Ann 955 435 455"."""
_DENIED = 4
"""A word like "order" or "ticket" speaks of a number that is grouped like a phone number only right before it."""
_RECORD = re.compile(r"@[\w.-]+(?: ?[,;|\t/·•] ?|\n|,? (?:or|oder|ou|o|of|eller|lub|and|y|und|et)(?: (?:on|at|al|au|unter|op|på))? )$")
"""A row of contacts: a number in the column behind an e-mail address, on the line below, or as the other way to reach somebody."""
_OWN_LINE = re.compile(r"(?:^|\n) ?$")
_DECIMAL = re.compile(r"\+?[0-9]+\.[0-9]+")


def phone_finder(regions: Sequence[str]) -> Finder:
    """Numbers of any country with +, and national ones of `regions`."""

    def find(text: str, low: int, high: int) -> Iterator[Found]:
        for match in _CANDIDATE.finditer(text, low, high):
            score = _score(text, match.start(), match.end(), regions)
            if score:
                yield match.start(), match.end(), score, "PHONE_NUMBER", "phone"

    seven = "[0-9](?:[ ().+/-]{0,3}[0-9]){6"
    return Finder(seven + "}", find, before=8, after=16, look=Look(re.compile(seven + ",}"), _worth, back=25))


def _worth(value: str) -> bool:
    return _DATE.fullmatch(value) is None and sum(map(str.isdigit, value)) >= 7


def _score(text: str, start: int, end: int, regions: Sequence[str]) -> float:
    number = _EXTENSION.sub("", text[start:end])
    digits = re.sub(r"\D", "", number)
    if not 7 <= len(digits) <= 15 or _DATE.fullmatch(number) or _DECIMAL.fullmatch(number) or number.count("(") != number.count(")"):
        return 0.0
    if arithmetic(text, start, end):
        return 0.0
    return _judged(text, start, end, number, digits, regions)


def _judged(text: str, start: int, end: int, number: str, digits: str, regions: Sequence[str]) -> float:
    """How sure the words around and the number's own form make it."""
    near = _CONTEXT.near(text, start, end)
    lone = len(digits) > 8 and _INITIAL.search(text, max(0, start - 3), start) and _LINE_END.match(text, end)
    if lone or _LABEL.search(text, max(0, start - 18), start):
        near["phone"] = 2
    if number.startswith("+"):
        return 0.9 if "phone" in near or _accepted(number, None, phonenumbers.is_possible_number) else 0.0
    if number.startswith("00") and len(digits) >= 10 and _accepted("+" + digits[2:], None, phonenumbers.is_valid_number):
        return 0.8
    if _NANP.fullmatch(number) or _TRUNK.fullmatch(number):
        return 0.75 if (OTHER not in near or near[OTHER] > _DENIED) and ("phone" in near or not _tabulated(text, start, end)) else 0.0
    if "phone" in near:
        return 0.82 - near["phone"] / 1000
    if (
        "call" in near
        and _GROUPED.fullmatch(number)
        and (near["call"] < _BESIDE or not _THOUSANDS.fullmatch(number))
        and (near["call"] < _ADJACENT or re.search(r"[ ().-]", number))
    ):
        return 0.7 - near["call"] / 1000
    if _RECORD.search(text, max(0, start - 80), start):
        return 0.6
    parted = re.search(r"[ .-]", number) or (len(digits) == 10 and _alone(text, start, end))
    if OTHER in near or not (number.startswith("0") and len(digits) >= 9 and parted and "/" not in number):
        return 0.0
    return 0.75 if any(_accepted(number, region, phonenumbers.is_valid_number) for region in regions) else 0.0


def _alone(text: str, start: int, end: int) -> bool:
    """Whether a number has a line of its own between lines of words: of an address, a signature."""
    above, _, before = text[max(0, start - 80) : start].rpartition("\n")
    after, _, below = text[end : end + 80].partition("\n")
    return not before.strip() and not after.strip() and any(c.isalpha() for c in (above + below)) and not re.search(r"\n[0-9]+$", above)


def _tabulated(text: str, start: int, end: int) -> bool:
    """Whether the number's line is of numbers only, several of them."""
    begin, close = text.rfind("\n", 0, start) + 1, text.find("\n", end)
    beside = text[begin:start] + text[end : close if close >= 0 else len(text)]
    return any(c.isdigit() for c in beside) and not any(c.isalpha() for c in beside)


def _accepted(number: str, region: str | None, judge: object) -> bool:
    try:
        return bool(judge(phonenumbers.parse(number, region)))  # type: ignore[operator]
    except phonenumbers.NumberParseException:
        return False
