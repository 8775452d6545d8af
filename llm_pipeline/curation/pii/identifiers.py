"""Numbers that an authority or a bank gave to a person: by form, check digits (python-stdnum) and the words beside them.

A form that nothing else has counts with its check digit alone; bare digits count only beside a word that says what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module

from llm_pipeline.curation.pii import validators
from llm_pipeline.curation.pii.context import AFTER, BEFORE, OTHER, Context, arithmetic
from llm_pipeline.curation.pii.windows import Finder, Found, Look, any_case

_LEFT, _END = r"(?<![\w.$€£+/-])", r"(?![\w%-]|[.:][0-9])"
_RIGHT = _END + "(?!,[0-9]{1,3}(?![0-9]))"
"""Bare digits may have decimals behind a comma; what has a form of its own may stand before the next cell of a row."""
_DATE = re.compile(
    r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|(?:19|20)\d\d-(?:19|20)\d\d"
    r"|(?:19|20)\d\d([-/. ])\d{1,2}\1\d{1,2}|\d{1,2}([-/. ])\d{1,2}\2(?:19|20)\d\d"
)
_DIGIT = re.compile("[0-9]")
_NUMBER = "[0-9](?:[ ().,/+–-]{0,2}[A-Za-z]?[0-9]){5"
"""Six digits and, once the brace is closed, more."""


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
        return _pattern(self.pattern, _END if self.alone else _RIGHT)

    def score(self, value: str, distance: int | None) -> float:
        if _DATE.fullmatch(value):
            return 0.0
        if distance is None:
            return self.alone if self.alone and self.valid(value) else 0.0
        if self.valid(value):
            return max(self.surest - distance / 1000, self.alone)
        return self.unchecked and self.unchecked - distance / 1000


@lru_cache(maxsize=256)
def _pattern(pattern: str, right: str) -> re.Pattern[str]:
    return re.compile(f"{_LEFT}(?:{pattern}){right}")


def _checksum(module: str) -> Callable[[str], bool]:
    """`is_valid` of a module of python-stdnum, imported at its first use."""

    def valid(value: str) -> bool:
        return bool(import_module(f"stdnum.{module}").is_valid(value))

    return valid


def _mostly_digits(value: str) -> bool:
    return sum(map(str.isdigit, value)) >= 5


def _any(value: str) -> bool:
    return any(c.isdigit() for c in value)


def _national(module: str, pattern: str, words: str, alone: float = 0.0, unchecked: float = 0.8) -> Identifier:
    return Identifier(module.replace(".", "_").replace("__", "_"), "NATIONAL_ID", pattern, words, _checksum(module), alone, unchecked)


_CARD = r"[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{12,19}"
_ACCOUNT_WORDS = (
    "account, accounts, acct, accts, acc, acc no, a c, checking, savings, payee, beneficiary account, konto, bankkonto, girokonto, "
    "DDA, rib, kontoverbindung, bankverbindung, compte, cuenta, ccc, conto, conto corrente, rekening, bankrekening, bban, clabe, "
    "direct deposit, conta, "
    "conta corrente, rachunek, rachunku, konta, bankgiro, plusgiro, tili, tilinumero, účtu, účet"
)
_TRANSFER_WORDS = (
    "void check, voided check, void cheque, voided cheque, cancelled cheque, ach, wire, wired, wire transfer, fedwire, micr, "
    "bank details, banking details, bank info, "
    "standing order, direct debit, transfer to, deposit to, deposit into, überweisung, überweisen, überweise, lastschrift, virement, "
    "rib, prélèvement, transferencia, domiciliación, "
    "bonifico, overschrijving, overboeking, overmaken, przelew, transferência, insättning, överföring"
)
"""Words of payments, which speak of numbers as long as those of accounts."""
_PAID_WORDS = (
    f"{_ACCOUNT_WORDS}, {_TRANSFER_WORDS}, bank, banks, pay, pay me, pay us, paid, payment, payments, payout, payroll, refund, refunds, "
    "remittance, transfer, transfers, deposit, send, owe, owes, sort code, s c, "
    "barclays, lloyds, natwest, hsbc, santander, halifax, monzo, starling, nationwide, tsb"
)
"""Words that make six digits and eight a British sort code and account."""
_SORT = r"[0-9]{2}(?:-[0-9]{2}-| [0-9]{2} |[0-9]{2})[0-9]{2}"
_APART = ("[ /]", "[,;/] ", " [/,] ")
_APART_SAID = (*_APART, " [-–|] ")


def _behind(*forms: str, marks: Sequence[str] = _APART) -> str:
    """What may stand behind a sort code of these forms."""
    return "(?:" + "|".join(rf"(?<={form}{mark})" for form in forms for mark in marks) + ")"


_OF_IDENTITY = (
    "national id, national identity, national identification, identity number, identity no, identity document, personal id, citizen id, "
    "personal identification, identification number, tax id, tax number, tax no, tax identification, taxpayer, fiscal number, tin"
)
"""Words for what every country numbers: they speak of numbers with the check digits of one."""
_SOCIAL = "ssn, ssns, social security, social, socials, soc sec, soc, social sec, ss no, ss #, SS, ssa, form w, W-2, W-4, W-9"
_INSURANCE = (
    "national insurance, nat ins, insurance number, insurance no, nino, ni number, ni no, ni, "
    "hmrc, hmrc ref, hmrc reference, paye, paye ref, paye reference"
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
    Identifier("ssn", "US_SSN", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", _SOCIAL, validators.ssn, 0.85, 0.8, 0.99),
    Identifier("ssn_bare", "US_SSN", r"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}", _SOCIAL, validators.ssn, 0.0, 0.8),
    Identifier("ssn_apart", "US_SSN", r"(?<![0-9][ .])[0-9]{3}([ .])[0-9]{2}\1[0-9]{4}(?![ .][0-9])", _SOCIAL, validators.ssn, 0.6),
    Identifier(
        "itin",
        "US_ITIN",
        r"9[0-9]{2}([ -]?)[0-9]{2}\1[0-9]{4}",
        "itin, itins, taxpayer, individual taxpayer, tax identification, tax id, tin, irs, W-7",
        _checksum("us.itin"),
        unchecked=0.8,
        surest=1.0,
    ),
    Identifier("itin_dashed", "US_ITIN", r"9[0-9]{2}-[0-9]{2}-[0-9]{4}", "itin", _checksum("us.itin"), alone=0.8),
    Identifier(
        "nhs",
        "UK_NHS",
        r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{4}",
        "nhs, national health, health service, health number, hospital number, chi, patient, patients, gp, surgery",
        _checksum("gb.nhs"),
        unchecked=0.7,
    ),
    Identifier(
        "nino",
        "UK_NINO",
        r"(?!(?:BG|GB|KN|NK|NT|TN|ZZ))[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:[ -]?[0-9]{2}){3}[ -]?[A-D]"
        r"|(?!bg|gb|kn|nk|nt|tn|zz)[a-ceghj-pr-tw-z][a-ceghj-npr-tw-z](?:[ -]?[0-9]{2}){3}[ -]?[a-d]",
        _INSURANCE,
        _any,
        alone=0.7,
        surest=0.98,
    ),
    Identifier(
        "nino_near",
        "UK_NINO",
        r"[A-Za-z]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-Za-z]",
        _INSURANCE,
        _any,
    ),
    Identifier(
        "account",
        "BANK_ACCOUNT",
        r"[0-9]{5} [0-9]{5} [0-9A-Z]{11} [0-9]{2}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{2}\1[0-9]{10}|[0-9]{2}(?: [0-9]{4}){6}|"
        r"[0-9]{2}-[0-9]{2}-[0-9]{2}|[0-9]{4} [0-9]{4}(?: [0-9]{2,4}){0,2}|[0-9]{4}-[0-9]{4}(?:-[0-9]{2,4}){1,2}|"
        r"[0-9]{3}-[0-9]{5,8}(?:-[0-9]{1,3})?|[0-9]{6,17}",
        _ACCOUNT_WORDS,
        _any,
        surest=0.85,
    ),
    Identifier(
        "sort_code",
        "BANK_ACCOUNT",
        r"[0-9]{2}[- ]?[0-9]{2}[- ]?[0-9]{2}|[0-9]{3}[- ][0-9]{3}|[0-9]{8}|[0-9]{3} [0-9]{3} [0-9]{2}|[0-9]{5}-[0-9]{3}",
        "sort code, sort, s c, bsb, blz, bankleitzahl, transit, transit no, branch code, clearing, clearingnummer",
        _any,
        surest=0.86,
    ),
    Identifier("sort_pair", "BANK_ACCOUNT", rf"{_SORT}(?=(?:{'|'.join(_APART_SAID)})[0-9]{{8}}(?![0-9]))", _PAID_WORDS, _any, surest=0.9),
    Identifier(
        "account_pair",
        "BANK_ACCOUNT",
        _behind("[0-9]{2}[ -][0-9]{2}[ -][0-9]{2}", "[0-9]{6}", marks=_APART_SAID) + "[0-9]{8}",
        _PAID_WORDS,
        _any,
        surest=0.9,
    ),
    Identifier(
        "sort_dashed",
        "BANK_ACCOUNT",
        rf"[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}(?=(?:{'|'.join(_APART)})(?!(?:19|20)[0-9]{{2}})[0-9]{{8}}(?![0-9]))",
        _ACCOUNT_WORDS,
        _any,
        alone=0.88,
    ),
    Identifier(
        "account_dashed",
        "BANK_ACCOUNT",
        _behind("[0-9]{2}-[0-9]{2}-[0-9]{2}") + "(?!(?:19|20)[0-9]{2})[0-9]{8}",
        _ACCOUNT_WORDS,
        _any,
        alone=0.88,
    ),
    Identifier(
        "routing",
        "BANK_ACCOUNT",
        r"[0-9]{9}|[0-9]{4}-[0-9]{4}-[0-9]",
        "routing, aba, rtn, transit, rtg, bank code",
        _checksum("us.rtn"),
        unchecked=0.8,
    ),
    Identifier("routing_paid", "BANK_ACCOUNT", "[0-9]{9}", f"{_ACCOUNT_WORDS}, {_TRANSFER_WORDS}", _checksum("us.rtn"), surest=0.86),
    Identifier("account_paid", "BANK_ACCOUNT", "[0-9]{8,12}", _TRANSFER_WORDS, _any, surest=0.8),
    Identifier("bban_gb", "BANK_ACCOUNT", r"[A-Z]{4}[0-9]{14}", _ACCOUNT_WORDS, _any, alone=0.8),
    Identifier(
        "licence_gb",
        "DRIVER_LICENCE",
        r"[A-Z][A-Z9]{4}[0-9](?:[05][1-9]|[16][0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9][A-Z][A-Z9][0-9][A-Z]{2}",
        "licence, license, driver, driving, dvla",
        _any,
        alone=0.8,
        surest=0.95,
    ),
    _national(
        "es.dni",
        r"(?:[0-9]{8}|[0-9]{1,2}\.[0-9]{3}\.[0-9]{3})[ -]?[A-Za-z]",
        "dni, nif, cif, documento, documento nacional, documento de identidad, identificación, carnet de identidad, cédula, n i f, d n i",
        0.7,
        0.75,
    ),
    _national(
        "es.nie", r"[XYZxyz][ -]?[0-9]\.?[0-9]{3}\.?[0-9]{3}[ -]?[A-Za-z]", "nie, nif, extranjero, extranjera, documento de identidad", 0.8
    ),
    _national(
        "fr.nir",
        r"[12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]|[2-9][0-9]) ?(?:[0-9]{2}|2[AB]) ?[0-9]{3} ?[0-9]{3}(?: ?[0-9]{2})?",
        "sécurité sociale, securite sociale, sécu, secu, nir, insee, INS, vitale, carte vitale, numéro de sécurité, n ss, immatriculation, "
        "assuré, assurée, assurance maladie, cpam, ameli",
        0.6,
    ),
    _national(
        "de.idnr",
        r"[0-9]{2}([ ./]?)[0-9]{3}\1[0-9]{3}\1[0-9]{3}",
        "steuer id, steuer, steuerid, steuernummer, steueridentifikationsnummer, steuerliche, identifikationsnummer, idnr, id nr, "
        "steuer identifikationsnummer, steuer idnr, finanzamt, elster, lohnsteuer, tax id, tin",
    ),
    _national(
        "it.codicefiscale",
        r"[A-Za-z]{3} ?[A-Za-z]{3} ?[0-9]{2}[A-Za-z][0-9]{2} ?[A-Za-z][0-9]{3}[A-Za-z]",
        "codice fiscale, cf, fiscale",
        0.9,
    ),
    _national(
        "nl.bsn",
        r"[0-9]{8,9}|[0-9]{4}([. -])[0-9]{2}\1[0-9]{3}|[0-9]{3}([. -])[0-9]{3}\2[0-9]{3}",
        "bsn, burgerservice, burgerservicenummer, sofi, sofinummer, citizen service, service number, persoonsnummer",
    ),
    _national("pl.pesel", r"[0-9]{11}", "pesel, ewidencyjny, ewidencyjnego, ewidencyjnym"),
    _national("pt.nif", r"[0-9]{9}|[0-9]{3}([ .])[0-9]{3}\1[0-9]{3}", "nif, contribuinte, identificação fiscal, número fiscal, finanças"),
    _national("pt.cc", r"[0-9]{8} ?[0-9] ?[A-Z0-9]{2}[0-9]", "cartão de cidadão, cartao de cidadao, cidadão"),
    _national(
        "se.personnummer",
        r"(?:19|20)?[0-9]{6}[-+ ]?[0-9]{4}",
        "personnummer, personnr, pers nr, pnr, personal identity, samordningsnummer, samordningsnr",
    ),
    _national("fi.hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]", "henkilötunnus, henkilötunnukseni, hetu, sotu, personbeteckning", 0.7),
    _national("dk.cpr", r"[0-9]{6}[- ]?[0-9]{4}", "cpr, personnummer, personnr"),
    _national("no.fodselsnummer", r"[0-9]{6} ?[0-9]{5}", "fødsel, fodsel, personnummer, personnr, fnr"),
    _national(
        "be.nn",
        r"[0-9]{2}[. ]?[0-9]{2}[. ]?[0-9]{2}[- ]?[0-9]{3}[. ]?[0-9]{2}",
        "rijksregister, registre national, numéro national, numero national, national number, nationaal nummer, insz, niss, nrn",
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
    _national("lv.pvn", r"[0-9]{6}-?[0-9]{5}", "personas kods"),
    _national("si.emso", r"[0-9]{13}", "emšo, emso"),
    _national("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{11}|[0-9]{9}-[0-9]{2}", "cpf, cadastro de pessoas"),
    _national("ca.sin", r"[0-9]{3}([ -]?)[0-9]{3}\1[0-9]{3}", "SIN, sin number, sin no, social insurance, assurance sociale, NAS"),
    _national("au.tfn", r"[0-9]{3} ?[0-9]{3} ?[0-9]{2,3}", "tfn, tax file"),
    _national("in_.aadhaar", r"[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}", "aadhaar, aadhar, uidai"),
    _national("in_.pan", r"[A-Z]{5}[0-9]{4}[A-Z]", "pan, permanent account", 0.6),
    _national("mx.curp", r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", "curp", 0.9),
    _national("za.idnr", r"[0-9]{13}|[0-9]{6} [0-9]{4} [0-9]{3}", "id number, identity number, south african id, said"),
    _national("tr.tckimlik", r"[1-9][0-9]{10}", "kimlik, tc kimlik, tckn"),
    _national("cn.ric", r"[0-9]{17}[0-9X]", "身份证, identity card, resident identity", 0.0),
    Identifier(
        "de_pension",
        "NATIONAL_ID",
        r"[0-9]{2}[ ./]?[0-9]{6}[ ./]?[A-Z][ ./]?[0-9]{3}",
        "sozialversicherung, rentenversicherung, versicherungsnummer, versicherungsnr, sv nummer, sv nr, rvnr",
        _any,
    ),
    Identifier(
        "de_ausweis",
        "NATIONAL_ID",
        r"[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}[0-9]?D?|T[0-9]{8}",
        "personalausweis, ausweisnummer, ausweis, personalausweisnummer",
        _any,
    ),
)
STATED = tuple(
    replace(kind, name=f"{kind.name}_stated", words=_OF_IDENTITY, alone=0.0, unchecked=0.0, surest=0.79)
    for kind in IDENTIFIERS
    if kind.entity == "NATIONAL_ID" and kind.valid is not _any
)
"""The same beside words that name no country."""
NAMED = (
    Identifier(
        "passport",
        "PASSPORT",
        r"[A-Z]{1,3}[ -]?[0-9]{5,9}[A-Z]?[0-9]?|[0-9]{7,9}|[A-Z][A-Z0-9]{7,9}|[0-9]{2}[A-Z]{2}[0-9]{5}",
        "passport, passports, passport no, pass no, travel document, travel doc, reisepass, reisedokument, pasaporte, passeport, "
        "passaporto, "
        "paspoort, passaporte, paszport, paszportu, pass nr, passnr, passnummer, pasnummer, pasnr",
        _any,
        surest=0.94,
    ),
    Identifier(
        "licence",
        "DRIVER_LICENCE",
        r"(?!(?:DLN?|NO|LIC|ID|OL|INV|ORD|REF|PO)\b)[A-Z]{1,3}[ -]?[0-9]{2,14}(?:[ -][0-9]{1,6}){0,5}[A-Z0-9]{0,3}|[0-9]{6,14}|"
        r"[0-9]{2,4}(?:[ -][0-9]{2,4}){1,4}|[A-Z0-9]{5,18}",
        "driver license, drivers license, driver s license, driving license, driver licence, drivers licence, driver s licence, driving "
        "licence, my license, my licence, dmv, dvla, driver lic, drivers lic, driver s lic, driver number, driver no, driver id, "
        "operator license, operators license, cdl, OLN, "
        "license number, licence number, license no, licence no, DL, dl number, dln, führerschein, fahrerlaubnis, "
        "permis de conduire, permis, permiso de conducir, carnet de conducir, licencia de conducir, patente, patente di guida, "
        "carta de condução, habilitação, cnh, rijbewijs, prawo jazdy, prawa jazdy, körkort, førerkort, kørekort, ajokortti",
        _mostly_digits,
        surest=0.93,
    ),
    Identifier("licence_washington", "DRIVER_LICENCE", "WDL[A-Z0-9]{9}", "licence, license, DL, dl #, washington", _any, surest=0.94),
)
"""Numbers with so few digits that only the words beside them show where they are."""


_NAMED = (
    any_case(
        "passport|travel document|"
        "passeport|passaport|reisepass|reisedokument|pasaporte|paspoort|paszport|pass nr|pass no|passnr|passnummer|license|licence"
        "|führerschein"
        "|permis|carnet de|patente|rijbewijs"
    ),
    "DL|dln|dl n|OLN",
)
"""Short words apart, which make the search for long ones slow."""
_PLAIN = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.[0-9]+")


def _worth(value: str) -> bool:
    return _DATE.fullmatch(value) is None and _PLAIN.fullmatch(value) is None


def identifier_finders() -> list[Finder]:
    return [
        Finder(_NUMBER + "}", _finder((*IDENTIFIERS, *STATED, *NAMED)), 24, 16, Look(re.compile(_NUMBER + ",}"), _worth, back=21)),
        *(Finder(anchor, _finder(NAMED), before=AFTER + 40, after=BEFORE + 40) for anchor in _NAMED),
    ]


def _finder(kinds: Sequence[Identifier]) -> Callable[[str, int, int], Iterator[Found]]:
    """Values of `kinds`; a search for all that count alone at once, whatever parts their groups, spares one for each."""
    context = Context({kind.name: kind.words for kind in kinds})
    lonely, named = [kind for kind in kinds if kind.alone], {kind.name: kind for kind in kinds if not kind.alone}
    any_lonely = _pattern("|".join(re.sub(r"\\[0-9]", ".?", kind.pattern) for kind in lonely) or "(?!)", _END)

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
