"""Numbers that an authority or a bank gave to a person: by form, check digits (python-stdnum) and the words beside them.

A form that nothing else has counts with its check digit alone; bare digits count only beside a word that says what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

from llm_pipeline.curation.pii import validators
from llm_pipeline.curation.pii.context import AFTER, BEFORE, OTHER, Context, arithmetic
from llm_pipeline.curation.pii.windows import Finder, Found, cased

_LEFT, _RIGHT = r"(?<![\w.$€£+/-])", r"(?![\w%-]|[.:][0-9]|,[0-9]{1,3}(?![0-9]))"
_DATE = re.compile(
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|(?:19|20)\d\d-(?:19|20)\d\d"
    r"|(?:19|20)\d\d([-/. ])\d{1,2}\1\d{1,2}|\d{1,2}([-/. ])\d{1,2}\2(?:19|20)\d\d"
)
_DIGIT = re.compile("[0-9]")
_NUMBER = r"[0-9](?:[ ().,/+–-]{0,2}[A-Za-z]?[0-9]){5,}"


@dataclass(frozen=True)
class Identifier:
    """One kind of number: `alone` is the score of a valid one without context, `unchecked` of an invalid one with context (0: never)."""

    name: str
    entity: str
    pattern: str
    words: str
    valid: Callable[[str], bool]
    alone: float = 0.0
    unchecked: float = 0.0
    surest: float = 0.97

    @property
    def compiled(self) -> re.Pattern[str]:
        return _pattern(self.pattern)

    def score(self, value: str, distance: int | None) -> float:
        if _DATE.fullmatch(value):
            return 0.0
        if distance is None:
            return self.alone if self.alone and self.valid(value) else 0.0
        if self.valid(value):
            return max(self.surest - distance / 1000, self.alone)
        return self.unchecked and self.unchecked - distance / 1000


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(f"{_LEFT}(?:{pattern}){_RIGHT}")


def _checksum(module: str) -> Callable[[str], bool]:
    """`is_valid` of a module of python-stdnum, imported at its first use."""

    def valid(value: str) -> bool:
        return bool(import_module(f"stdnum.{module}").is_valid(value))

    return valid


def _mostly_digits(value: str) -> bool:
    return sum(map(str.isdigit, value)) >= 5


def _any(value: str) -> bool:
    return any(c.isdigit() for c in value)


def _national(module: str, pattern: str, words: str, alone: float = 0.0, unchecked: float = 0.75) -> Identifier:
    return Identifier(module.replace(".", "_").replace("__", "_"), "NATIONAL_ID", pattern, words, _checksum(module), alone, unchecked)


_CARD = r"[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{12,19}"
_ACCOUNT_WORDS = (
    "account, accounts, acct, a c, account number, checking, kontonummer, konto, bankkonto, compte, cuenta, conto corrente, rekening, "
    "rekeningnummer, bban, direct deposit"
)
IDENTIFIERS = (
    Identifier(
        "card",
        "CREDIT_CARD",
        _CARD,
        "card, cards, cc, credit card, debit card, visa, mastercard, master card, amex, american express, maestro, discover, diners, jcb, "
        "kreditkarte, kartennummer, karte, tarjeta, carte, carta, kaart, cartao, cartão, card number",
        validators.card,
        alone=0.9,
        unchecked=0.75,
        surest=1.0,
    ),
    Identifier("ssn", "US_SSN", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", "ssn, social security, social, soc sec", validators.ssn, 0.85, 0.8, 0.99),
    Identifier(
        "ssn_bare", "US_SSN", r"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}", "ssn, social security, social, soc sec", validators.ssn, 0.0, 0.8
    ),
    Identifier(
        "itin",
        "US_ITIN",
        r"9[0-9]{2}([ -]?)[0-9]{2}\1[0-9]{4}",
        "itin, taxpayer, taxpayer identification, tax identification, tax id",
        _checksum("us.itin"),
        unchecked=0.8,
        surest=1.0,
    ),
    Identifier(
        "nhs",
        "UK_NHS",
        r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{4}",
        "nhs, national health, health service, nhs number, patient",
        _checksum("gb.nhs"),
        unchecked=0.7,
    ),
    Identifier(
        "nino",
        "UK_NINO",
        r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]([ -]?)[0-9]{2}\1[0-9]{2}\1[0-9]{2}\1[A-D]",
        "national insurance, nino, ni number, ni no, ni",
        _any,
        alone=0.8,
        surest=0.98,
    ),
    Identifier(
        "nino_near",
        "UK_NINO",
        r"[A-Za-z]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-Za-z]",
        "national insurance, nino, ni number, ni no, ni",
        _any,
    ),
    Identifier(
        "account",
        "BANK_ACCOUNT",
        r"[0-9]{2}-[0-9]{2}-[0-9]{2}(?:[ ,]+[0-9]{8})?|[0-9]{4} [0-9]{4}(?: [0-9]{2,4}){0,2}|[0-9]{4}-[0-9]{4}(?:-[0-9]{2,4}){1,2}|"
        r"[0-9]{3}-[0-9]{5,8}(?:-[0-9]{1,3})?|[0-9]{6,17}",
        _ACCOUNT_WORDS,
        _any,
        surest=0.85,
    ),
    Identifier(
        "sort_code",
        "BANK_ACCOUNT",
        r"[0-9]{2}[- ]?[0-9]{2}[- ]?[0-9]{2}|[0-9]{3}-[0-9]{3}|[0-9]{8}",
        "sort code, sort, bsb, blz, bankleitzahl, transit",
        _any,
        surest=0.86,
    ),
    Identifier(
        "routing",
        "BANK_ACCOUNT",
        r"[0-9]{9}|[0-9]{4}-[0-9]{4}-[0-9]",
        "routing, aba, rtn, transit",
        _checksum("us.rtn"),
        unchecked=0.8,
    ),
    Identifier("bban_gb", "BANK_ACCOUNT", r"[A-Z]{4}[0-9]{14}", _ACCOUNT_WORDS, _any, alone=0.8),
    _national(
        "es.dni",
        r"(?:[0-9]{8}|[0-9]{1,2}\.[0-9]{3}\.[0-9]{3})[ -]?[A-Za-z]",
        "dni, nif, documento, documento nacional, documento de identidad",
        0.7,
        0.75,
    ),
    _national("es.nie", r"[XYZxyz][ -]?[0-9]\.?[0-9]{3}\.?[0-9]{3}[ -]?[A-Za-z]", "nie, nif, extranjero, documento de identidad", 0.8),
    _national(
        "fr.nir",
        r"[12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]|[2-9][0-9]) ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3}(?: ?[0-9]{2})?",
        "sécurité sociale, securite sociale, sécu, secu, nir, insee, INS, vitale, carte vitale, numéro de sécurité",
        0.6,
    ),
    _national(
        "de.idnr",
        r"[0-9]{2}([ ./]?)[0-9]{3}\1[0-9]{3}\1[0-9]{3}",
        "steuer id, steuer, steuerid, steuernummer, steueridentifikationsnummer, steuerliche, identifikationsnummer, idnr, id nr, "
        "tax id, tin",
    ),
    _national(
        "it.codicefiscale",
        r"[A-Za-z]{3} ?[A-Za-z]{3} ?[0-9]{2}[A-Za-z][0-9]{2} ?[A-Za-z][0-9]{3}[A-Za-z]",
        "codice fiscale, cf, fiscale",
        0.9,
    ),
    _national("nl.bsn", r"[0-9]{8,9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", "bsn, burgerservicenummer, sofinummer, service number"),
    _national("pl.pesel", r"[0-9]{11}", "pesel"),
    _national("pt.nif", r"[0-9]{9}|[0-9]{3} [0-9]{3} [0-9]{3}", "nif, contribuinte, identificação fiscal"),
    _national("pt.cc", r"[0-9]{8} ?[0-9] ?[A-Z0-9]{2}[0-9]", "cartão de cidadão, cartao de cidadao, cidadão"),
    _national("se.personnummer", r"(?:19|20)?[0-9]{6}[-+]?[0-9]{4}", "personnummer, personal identity number, samordningsnummer"),
    _national("fi.hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", "henkilötunnus, hetu, personbeteckning", 0.7),
    _national("dk.cpr", r"[0-9]{6}[- ]?[0-9]{4}", "cpr, cpr nummer, personnummer"),
    _national("no.fodselsnummer", r"[0-9]{6} ?[0-9]{5}", "fødselsnummer, fodselsnummer, personnummer"),
    _national(
        "be.nn",
        r"[0-9]{2}[. ]?[0-9]{2}[. ]?[0-9]{2}[- ]?[0-9]{3}[. ]?[0-9]{2}",
        "rijksregisternummer, rijksregister, registre national, national number, insz, niss",
    ),
    _national("ie.pps", r"[0-9]{7}[A-Wa-w][A-IWa-iw]?", "pps, ppsn, pps number, personal public service", 0.0),
    _national("at.vnr", r"[0-9]{4} ?[0-9]{6}", "sozialversicherungsnummer, svnr, sozialversicherung, sv nummer"),
    _national("ch.ssn", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}|756[0-9]{10}", "ahv, avs, ahv nummer, numéro avs, sozialversicherungsnummer"),
    _national("cz.rc", r"[0-9]{6}/?[0-9]{3,4}", "rodné číslo, rodne cislo, rodného čísla"),
    _national("ro.cnp", r"[1-9][0-9]{12}", "cnp, cod numeric personal"),
    _national("bg.egn", r"[0-9]{10}", "egn, егн"),
    _national("gr.amka", r"[0-9]{11}", "amka, αμκα"),
    _national("hr.oib", r"[0-9]{11}", "oib, osobni identifikacijski"),
    _national("ee.ik", r"[1-8][0-9]{10}", "isikukood"),
    _national("lt.asmens", r"[1-6][0-9]{10}", "asmens kodas"),
    _national("lv.pk", r"[0-9]{6}-?[0-9]{5}", "personas kods"),
    _national("si.emso", r"[0-9]{13}", "emšo, emso"),
    _national("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{11}|[0-9]{9}-[0-9]{2}", "cpf"),
    _national("ca.sin", r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{3}", "SIN, sin number, social insurance"),
    _national("au.tfn", r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "tfn, tax file"),
    _national("in_.aadhaar", r"[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}", "aadhaar, aadhar, uidai"),
    _national("in_.pan", r"[A-Z]{5}[0-9]{4}[A-Z]", "pan, permanent account", 0.6),
    _national("mx.curp", r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", "curp", 0.9),
    _national("za.idnr", r"[0-9]{13}", "id number, identity number, south african id"),
    _national("tr.tckimlik", r"[1-9][0-9]{10}", "kimlik, tc kimlik, tckn"),
    _national("cn.ric", r"[0-9]{17}[0-9X]", "身份证, identity card, resident identity", 0.0),
    Identifier(
        "de_ausweis",
        "NATIONAL_ID",
        r"[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9]?D?|T[0-9]{8}",
        "personalausweis, ausweisnummer, ausweis, personalausweisnummer",
        _any,
    ),
)
NAMED = (
    Identifier(
        "passport",
        "PASSPORT",
        r"[A-Z]{1,3}[ -]?[0-9]{5,9}[A-Z]?[0-9]?|[0-9]{7,9}|[A-Z][A-Z0-9]{7,9}|[0-9]{2}[A-Z]{2}[0-9]{5}",
        "passport, passports, travel document, "
        "reisepass, reisepassnummer, pasaporte, passeport, passaporto, paspoort, passaporte, paszport, pass nr",
        _any,
        surest=0.94,
    ),
    Identifier(
        "licence",
        "DRIVER_LICENCE",
        r"(?!(?:DLN?|NO|LIC|ID|OL)\b)[A-Z]{1,3}[ -]?[0-9]{2,14}(?:[ -][0-9]{1,6}){0,5}[A-Z0-9]{0,3}|[0-9]{6,14}|"
        r"[0-9]{2,4}(?:[ -][0-9]{2,4}){1,4}|[A-Z0-9]{5,18}",
        "driver license, drivers license, driver s license, driving license, driver licence, drivers licence, driver s licence, driving "
        "licence, my license, my licence, dmv, dvla, "
        "license number, licence number, license no, licence no, DL, dl number, dln, führerschein, führerscheinnummer, "
        "permis de conduire, permiso de conducir, carnet de conducir, patente, rijbewijs",
        _mostly_digits,
        surest=0.93,
    ),
)
"""Numbers with so few digits that only the words beside them show where they are."""


_NAMED = (
    cased(
        "passport|travel document|"
        "passeport|passaport|reisepass|pasaporte|paspoort|paszport|pass nr|license|licence|führerschein|permis de|permiso de"
        "|carnet de|patente|rijbewijs"
    ),
    "DL|dln|dl n",
)
"""Short words apart, which make the search for long ones slow."""
_PLAIN = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.[0-9]+")


def _worth(value: str) -> bool:
    return _DATE.fullmatch(value) is None and _PLAIN.fullmatch(value) is None


def identifier_finders() -> list[Finder]:
    return [
        Finder(_NUMBER, _finder((*IDENTIFIERS, *NAMED)), before=24, after=16, worth=_worth, digits=True),
        *(Finder(anchor, _finder(NAMED), before=AFTER + 24, after=BEFORE + 40) for anchor in _NAMED),
    ]


def _finder(kinds: Sequence[Identifier]) -> Callable[[str, int, int], Iterator[Found]]:
    """Values of `kinds`; a search for all that count alone at once, whatever parts their groups, spares one for each."""
    context = Context({kind.name: kind.words for kind in kinds})
    lonely, named = [kind for kind in kinds if kind.alone], {kind.name: kind for kind in kinds if not kind.alone}
    any_lonely = _pattern("|".join(re.sub(r"\\[0-9]", ".?", kind.pattern) for kind in lonely) or "(?!)")

    def find(text: str, low: int, high: int) -> Iterator[Found]:
        if not _DIGIT.search(text, low, high):
            return
        said = context.read(text, low - BEFORE, high + AFTER)
        topics = {topic for topics, *_ in said for topic in topics} | context.headed(text, low) | context.headed(text, high - 1)
        for kind in [*(lonely if any_lonely.search(text, low, high) else ()), *(named[topic] for topic in topics & named.keys())]:
            for match in kind.compiled.finditer(text, low, high):
                if match.group().isdigit() and arithmetic(text, match.start(), match.end()):
                    continue
                near = context.nearest(text, said, match.start(), match.end())
                score = 0.0 if OTHER in near and kind.name not in near else kind.score(match.group(), near.get(kind.name))
                if score:
                    yield match.start(), match.end(), score, kind.entity, kind.name

    return find
