"""Dates of birth: any date near a word for being born."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_pipeline.curation.pii.context import AFTER, BEFORE, Context
from llm_pipeline.curation.pii.windows import Finder, Found, any_case

_MONTH = (
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|J[aä]nner|Mär|Mai|Okt|Dez|janv|févr|mars|avr|juin|juil|août|déc|ene|enero|abr|"
    r"ago"
    r"|dic|gen|mag|giu|lug|set|ott|maart|mei|maj|mrt|fev|fév|mai|out|dez|sty|lut|kwi|cze|lip|sie|wrz|paź|lis|gru|tammi|helmi|maalis|huhti"
    r"|touko|kesä|heinä|elo|syys|loka|marras|joulu|led|úno|bře|dub|kvě|čer|srp|zář|říj|pro)[^\W\d_]*\.?"
)
_DATE = re.compile(
    rf"(?<![\w.$-])(?:(?:19|20)[0-9]{{2}}([-/. ])[0-9]{{1,2}}\1[0-9]{{1,2}}(?:T[0-9:.]+Z?)?|[0-9]{{1,2}}([-/. ])[0-9]{{1,2}}\2(?:19|"
    rf"20)?[0-9]{{2}}"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.)?[ -](?:of |de )?{_MONTH},?[ -](?:de |del )?(?:19|20)?[0-9]{{2}}"
    rf"|{_MONTH}[ -][0-9]{{1,2}}(?:st|nd|rd|th)?,?[ -](?:19|20)[0-9]{{2}}|(?:19|20)[0-9]{{2}}[ -]{_MONTH}[ -][0-9]{{1,2}}"
    rf"|(?:19|20)[0-9]{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]))(?![\w]|[-/.][0-9])",
    re.I,
)
_WORDS = (
    "born, birth, birthday, birthdate, birthdays, dob, d o b, date of birth, geboren, geburtsdatum, geb, geburtstag, né, née, naissance, "
    "birth date, bday, b day, birthdate, geb datum, gebdat, geburtsdat, date naiss, ddn, né le, née le, fecha de nac, f nac, "
    "f nacimiento, nac, "
    "nacimiento, nacido, nacida, nací, nació, cumpleaños, nascita, nato, nata, data di nasc, geboortedatum, geboortedag, gebdatum, "
    "verjaardag, "
    "nascimento, nasceu, nasci, nascido, nascida, urodzenia, urodzony, urodzona, urodziny, data ur, urodził, urodziła, "
    "född, födelsedatum, födelsedag, födelsedata, fødselsdato, fødselsdag, født, fødd, syntynyt, syntymäaika, narozen, narozena, narození, "
    "született, születési, doğum, anniversaire, compleanno"
)
_ABBREVIATED = re.compile(r"(?:[(,;] ?b|\bur)\. ?$")
"""Before a date: "Ann Lee (b. 4 May 1960)", "Anna Nowak, ur. 4.05.1960"."""
_CONTEXT = Context({"birth": _WORDS}, of_dates=True)
_ANCHOR = (
    any_case(
        "born|birth|bday|b-day|dob|d[.]o[.]b|d o b|gebo|geburt|geb|né|naiss|ddn|nac|nasc|nato|nata|urodz|data ur|föd|fød|syntym|syntyn|"
        "naroz|szület|doğum|anniversaire|compleanno|cumple|verjaardag"
    )
    + "|[(,;] ?b[.] ?[0-9A-Z]|ur[.] ?[0-9]"
)


def birth_finder() -> Finder:
    return Finder(_ANCHOR, _births, before=AFTER + 52, after=BEFORE + 40)


def _births(text: str, low: int, high: int) -> Iterator[Found]:
    for match in _DATE.finditer(text, low, high):
        near = 0 if _ABBREVIATED.search(text, max(0, match.start() - 4), match.start()) else _CONTEXT.near(text, *match.span()).get("birth")
        if near is not None:
            yield match.start(), match.end(), 0.97 - near / 1000, "DATE_OF_BIRTH", "birth"
