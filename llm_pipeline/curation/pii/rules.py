"""The rules: for every type of personal data a pattern, what makes it certain, and a cheap prefilter that never misses it.

A shape that nothing else has (an e-mail address, a valid IBAN) counts alone; bare digits count only with a checksum or with
words near them that say what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llm_pipeline.curation.pii import validators
from llm_pipeline.curation.pii.people import person_rules
from llm_pipeline.curation.pii.places import address_rules
from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.curation.pii.telephone import phone_rule

Found = tuple[int, int, float]
_BEFORE, _AFTER = 72, 28
_DATE = re.compile(r"(?:19|20)\d\d[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d")
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)[a-z]*\.?"
_ANY_DATE = (
    rf"(?:(?:19|20)[0-9]{{2}}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,2}}|[0-9]{{1,2}}[-/. ][0-9]{{1,2}}[-/. ](?:19|20)?[0-9]{{2}}"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{_MONTH},?[ -](?:19|20)[0-9]{{2}}"
    rf"|{_MONTH} [0-9]{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)[0-9]{{2}})"
)


@dataclass(frozen=True)
class Rule:
    """`find(text)` yields (start, end, score); a text in which it finds anything matches every Rust regex of `prefilter`."""

    name: str
    entity: str
    prefilter: tuple[str, ...]
    find: Callable[[str], Iterator[Found]]


def rules(policy: PiiPolicy) -> list[Rule]:
    """All rules of the types that the policy does not keep."""
    people = [Rule(name, "PERSON", prefilter, find) for name, prefilter, find in person_rules(policy.name_locales, policy.never_names)]
    places = [Rule(name, "STREET_ADDRESS", prefilter, find) for name, prefilter, find in address_rules()]
    everything = [*_network(), *_finance(), *_identity(), Rule("phone", "PHONE", *phone_rule(policy.phone_regions)), *people, *places]
    return [rule for rule in everything if policy.mode(rule.entity) != "keep"]


def _shape(
    name: str,
    entity: str,
    pattern: str,
    prefilter: str,
    check: Callable[[str], bool] | None = None,
    context: str | None = None,
    flags: int = 0,
    strong: float = 1.0,
    weak: float = 0.0,
) -> Rule:
    """A pattern whose group `v` (or whole) is the value: score `strong` when `check` accepts it, else `weak` when `context` is near."""
    compiled, near = re.compile(pattern, flags), re.compile(context, re.I) if context else None

    def find(text: str) -> Iterator[Found]:
        for match in compiled.finditer(text):
            start, end = match.span("v" if "v" in compiled.groupindex else 0)
            value = text[start:end]
            if check is None or check(value):
                yield start, end, strong
            elif weak and near is not None and (distance := _distance(near, text, start, end)) is not None:
                yield start, end, weak - distance / 1000

    return Rule(name, entity, (prefilter,), find)


def _with_context(
    name: str, entity: str, pattern: str, context: str, check: Callable[[str], bool] | None = None, flags: int = 0, strong: float = 0.9
) -> Rule:
    """A pattern that counts only near one of the context words; the nearer, the higher the score."""
    compiled, near = re.compile(pattern, flags), re.compile(context, re.I)

    def find(text: str) -> Iterator[Found]:
        for match in compiled.finditer(text):
            start, end = match.span("v" if "v" in compiled.groupindex else 0)
            value = text[start:end]
            if _DATE.fullmatch(value) and entity != "DATE_OF_BIRTH":
                continue
            distance = _distance(near, text, start, end)
            if distance is not None and (check is None or check(value)):
                yield start, end, strong - distance / 1000

    return Rule(name, entity, (f"(?i){context}",), find)


def _distance(near: re.Pattern[str], text: str, start: int, end: int) -> int | None:
    """Characters between the value and the nearest context word of the window, or None."""
    before = [start - match.end() for match in near.finditer(text, max(0, start - _BEFORE), start)]
    after = near.search(text, end, min(len(text), end + _AFTER))
    distances = before[-1:] + ([after.start() - end + 5] if after else [])
    return min(distances) if distances else None


def _network() -> list[Rule]:
    token = (
        r"(?:sk|pk|rk)[-_](?:live|test|proj|ant)?[-_]?[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}"
        r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|xox[abprs]-[A-Za-z0-9-]{10,}|glpat-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}"
        r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    )
    ipv6 = r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])"
    secrets = r"\b(?:api[ _-]?key|access[ _-]?(?:key|token)|secret(?:[ _-]?key)?|auth(?:entication)?[ _-]?token|bearer|token|password)\b"
    return [
        _shape("email", "EMAIL", r"(?<![\w.+-])[\w.+%'-]*\w[\w.+%'-]*@(?:[^\W_](?:[\w-]*[^\W_])?\.)+[^\W\d_]{2,}", "@"),
        _shape(
            "email_spelled",
            "EMAIL",
            r"(?<![\w.+-])[\w.+-]+ ?(?:\(at\)|\[at\]|\bat\b) ?\w[\w-]*(?: ?(?:\(dot\)|\[dot\]|\bdot\b|\.) ?\w[\w-]*)*"
            r" ?(?:\(dot\)|\[dot\]|\bdot\b) ?[a-z]{2,}\b",
            r"(?i)dot",
            flags=re.I,
            strong=0.9,
        ),
        _shape(
            "url_credentials",
            "URL_CREDENTIALS",
            r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@\[\]]+:[^\s/@\[\]]+@[^\s<>\"')\],;]*[^\s<>\"')\],;.]",
            "://",
        ),
        _shape(
            "ipv4", "IP_ADDRESS", r"(?<![\w.-])(?<!version )(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])", r"[0-9]\.[0-9]", validators.ip
        ),
        _shape("ipv6", "IP_ADDRESS", ipv6, ":[0-9a-fA-F]*:", lambda v: any(c.isdigit() for c in v) and len(v) > 6 and validators.ip(v)),
        _shape(
            "mac",
            "MAC_ADDRESS",
            r"(?<![\w:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:-])",
            "[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}",
        ),
        _shape(
            "mac_dotted",
            "MAC_ADDRESS",
            r"(?<![\w.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![\w.])",
            r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}",
        ),
        _shape(
            "token", "API_KEY", rf"(?<![\w-])(?:{token})", "(?:sk|pk|rk)[-_]|gh[pousr]_|github_pat_|AKIA|ASIA|AIza|xox|glpat-|hf_|SG\\.|eyJ"
        ),
        _with_context("secret", "API_KEY", r"(?<![\w./-])[A-Za-z0-9_-]{16,}(?![\w/-])", secrets, validators.secret),
    ]


def _finance() -> list[Rule]:
    card_words = r"\b(?:card|visa|master ?card|amex|american express|kreditkarte|tarjeta|carte)\b"
    account = (
        r"\b(?:account (?:number|no|nr|num|#)|acct|a/c|account|kontonummer|konto|numéro de compte|routing|sort[ -]?code|aba|bsb|bban)\b"
    )
    return [
        _shape(
            "card",
            "CREDIT_CARD",
            r"(?<![\w.$€£-])(?:[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}"
            r"|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}|[0-9]{12,19})(?![\w-]|\.[0-9])",
            "[0-9]{4}[ -]?[0-9]{4}",
            validators.card,
            card_words,
            weak=0.75,
        ),
        Rule("iban", "IBAN", ("(?i)[a-z]{2}[0-9]{2}[ -]?[a-z0-9]",), _ibans),
        _shape(
            "wallet",
            "CRYPTO_WALLET",
            r"(?<![\w])(?:(?:bc1|tb1|BC1)[a-zA-Z0-9]{11,87}|[13][1-9A-HJ-NP-Za-km-z]{25,34}|0x[0-9a-fA-F]{40})(?![\w])",
            "bc1|tb1|BC1|[13][1-9A-HJ-NP-Za-km-z]{25}|0x[0-9a-fA-F]{40}",
            validators.wallet,
            r"\b(?:bitcoin|btc|wallet|crypto\w*|ethereum|eth|blockchain)\b",
            weak=0.8,
        ),
        _with_context(
            "account",
            "BANK_ACCOUNT",
            r"(?<![\w.$€£,+-])(?:[0-9]{2}-[0-9]{2}-[0-9]{2}(?:[ ,]+[0-9]{8})?|[0-9]{4}[ -][0-9]{4}(?:[ -][0-9]{2,4})?"
            r"|[0-9]{6,17})(?![\w%]|[.,:][0-9]|-[0-9])",
            account,
            strong=0.85,
        ),
        _with_context(
            "routing",
            "BANK_ACCOUNT",
            r"(?<![\w.$-])[0-9]{9}(?![\w-]|\.[0-9])",
            r"\b(?:routing|aba|transit)\b",
            validators.routing,
            strong=0.95,
        ),
        _shape("bban_gb", "BANK_ACCOUNT", r"(?<!\w)[A-Z]{4}[0-9]{14}(?!\w)", "[A-Z]{4}[0-9]{14}", strong=0.8),
    ]


def _ibans(text: str) -> Iterator[Found]:
    """IBANs with or without spaces: as many characters as the country's length says; with the word IBAN near, checksum or not."""
    for match in re.finditer(r"(?i)(?<!\w)[a-z]{2}[0-9]{2}(?=[ -]?[a-z0-9])", text):
        length = validators.IBAN_LENGTHS.get(match.group()[:2].upper(), 0)
        body = re.compile(rf"[A-Za-z]{{2}}[0-9]{{2}}(?:[ -]?[A-Za-z0-9]){{{max(length - 4, 0)}}}(?!\w)").match(text, match.start())
        if not length or body is None:
            continue
        if validators.iban(body.group()):
            yield body.start(), body.end(), 1.0
        elif re.search(r"(?i)\bIBAN\b", text[max(0, body.start() - _BEFORE) : body.start()]):
            yield body.start(), body.end(), 0.8


def _identity() -> list[Rule]:
    social = r"\b(?:ssn|social security|social|itin|taxpayer)\b"
    nino = r"(?<![\w])[A-CEGHJ-PR-TW-Za-ceghj-pr-tw-z][A-CEGHJ-NPR-TW-Za-ceghj-npr-tw-z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-Da-d](?!\w)"
    return [
        _shape(
            "ssn",
            "US_SSN",
            r"(?<![\w.$-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-]|\.[0-9])",
            "[0-9]{3}-[0-9]{2}-[0-9]{4}",
            validators.ssn,
            social,
            weak=0.8,
        ),
        _with_context("ssn_bare", "US_SSN", r"(?<![\w.$+-])[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}(?![\w-]|\.[0-9])", social, strong=0.93),
        _shape("nino", "UK_NINO", nino, "(?i)[a-z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[a-d]", strong=0.95),
        _with_context(
            "nino_near",
            "UK_NINO",
            r"(?<!\w)[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?!\w)",
            r"\b(?:national insurance|nino|ni number)\b",
            flags=re.I,
        ),
        _with_context(
            "nhs",
            "UK_NHS",
            r"(?<![\w.$+-])[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}(?![\w-]|\.[0-9])",
            r"\b(?:nhs|national health|health service|patient)\b",
            strong=0.96,
        ),
        _with_context(
            "passport",
            "PASSPORT",
            r"(?<![\w.$+-])(?:[A-Z]{1,2} ?[0-9]{6,8}[A-Z]?|[0-9]{8,9}|[CFGHJKLMNPRTVWXYZ0-9]{9,10})(?![\w-]|\.[0-9])",
            r"\b(?:passport|reisepass|pasaporte|passeport|passaporto)",
            strong=0.94,
        ),
        _with_context(
            "birth",
            "DATE_OF_BIRTH",
            rf"(?<![\w.$-]){_ANY_DATE}(?![\w]|[-/.][0-9])",
            r"\b(?:born|birth|birthday|birthdate|d\.?o\.?b|geboren|geburtsdatum|née?|naissance|nacimiento|nacid[oa]|nascita|nat[oa])\b",
            flags=re.I,
            strong=0.97,
        ),
    ]
