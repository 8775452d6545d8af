"""Sentences with personal data for measuring, written apart from the rules and from the bank's generator; values by Faker and stdnum.

Templates are split by hash into `dev` (may be looked at while rules change) and `held-out` (only the figures are). A name in braces is a
type, or a form of it (`first`, `last` and `person` are PERSON).
"""

from __future__ import annotations

import hashlib
import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from faker import Faker
from stdnum.de import idnr
from stdnum.gb import nhs
from stdnum.us import rtn

LATIN = "en_US en_GB en_AU en_CA en_IE en_IN en_NZ de_DE de_AT fr_FR fr_CA es_ES es_MX it_IT nl_NL pt_BR pt_PT pl_PL sv_SE da_DK fi_FI no_NO cs_CZ hu_HU ro_RO tr_TR"  # noqa: E501
PHONES = "en_US en_US en_US en_GB en_AU en_CA en_IN de_DE fr_FR es_ES it_IT nl_NL pl_PL pt_BR sv_SE fi_FI"
_TEMPLATES = """
can you raise the limit on my card {card} until Friday?
Charge it to {card}, expiry 04/29, security code 731.
The transaction with {card} was declined twice on 2024-03-05.
{card} is what's printed on the front, it ends the month after next.
CC#: {card}
Payment method: Mastercard {card} (exp 11/27)
Please refund order 88213-7741 to my Visa, {card}.
After the upgrade to 3.12.4 the page showed my full number {card} in clear text!
Hi, this is {person}, my number is {phone} and I need a call this afternoon.
You may text me under {phone} or mail {email}.
{phone} is the best number at night.
In case of emergency contact {person} at {phone}.
Mobile: {phone} / Fax: {phone}
We tried {phone} three times and nobody picked up.
Could someone give {first} a ring? {phone}. Thanks!
Phone number - {phone}
The flyer says to dial {phone} between 9:00 and 17:30.
Contact: {person}, {email}, {phone}
Send the invoice to {email} before 12.5.2024.
From: {person} <{email}>
cc {email}; bcc {email}
username {email} password reset requested 3 times in 24 hours
Is {email} still the address you have on file for {person}?
DOB: {dob}
{person} (born {dob}) was admitted on 4 May.
Date of birth {dob}, place of birth unknown.
Patient {person}, D.O.B. {dob}, NHS no. {nhs}.
Her birthday is {dob} and she lives at {address}.
birthdate={dob};plan=gold
I was born on {dob} in a small village.
Mr. {last} lives at {address} with two dogs.
Ship to:\n{person}\n{address}
Our office moved to {address} last week.
The parcel for {person} was left at {address}.
Billing address: {address}
Where is my order? It should have gone to {address}, not to the warehouse.
Home address on the form: {address}
My social is {ssn}, do you need anything else?
SSN: {ssn}
Applicant {person} entered {ssn} in the social security field.
Employee record: {person}, SSN {ssn}, hired 2019-07-01, salary 54,300.
The taxpayer identification number ITIN {itin} belongs to {person}.
ITIN is {itin}
Passport No: {passport}
{person} travels with passport {passport}, valid to 2031.
My passport, number {passport}, was stolen in Lisbon.
Driver's license: {licence}
The officer wrote down licence number {licence} and let {first} go.
driving licence {licence} expires soon
DL# {licence}
Account number {account}, sort code {sort}.
Please wire 1,250.00 USD to routing {routing}, account {account}.
Direct deposit goes to bank account {account}.
ABA routing number: {routing}
My checking account is {account} at the same branch.
acct no. {account} was overdrawn by 35.20
IBAN {iban}
Wire the rent to {iban} by the first of the month.
{person} changed the payout account to {iban} yesterday.
iban: {iban}, bic: DEUTDEFF
The NHS number on my letter is {nhs}
NHS Number: {nhs}
National Insurance number {nino} is missing in payroll.
NINO: {nino}
Her NI no. is {nino}, tax code 1257L.
Mi DNI es {es_id} y vivo en Madrid.
NIE/NIF: {es_id}
Numéro de sécurité sociale : {fr_nir}
mon numéro de sécu est le {fr_nir}, merci
Meine Steuer-ID lautet {de_tax}.
Steuerliche Identifikationsnummer: {de_tax}
Il mio codice fiscale è {it_cf}.
CF {it_cf} - paziente {person}
Mijn BSN is {nl_bsn}.
Burgerservicenummer {nl_bsn}
PESEL: {pl_pesel}
Mój numer PESEL to {pl_pesel}, proszę o kontakt.
Personnummer {se_pnr}
Mitt personnummer är {se_pnr}.
henkilötunnus: {fi_hetu}
CPF: {br_cpf}
The server at {ip} refused the connection on port 8443.
Failed password for root from {ip} port 52144 ssh2
client_ip={ip} status=200 bytes=5321
Please whitelist {ip} and {ip}.
ping to {ip} takes 12.5 ms
Device {mac} joined the network.
HWaddr {mac} inet {ip}
The printer's MAC is {mac}.
git clone {urlcred}
DATABASE_URL={urlcred}
You can fetch the nightly dump from {urlcred} if the VPN is up.
Send 0.05 BTC to {btc}
donations welcome: {btc}
My ETH wallet {eth} received nothing so far.
transfer from {eth} confirmed in block 19234511
payout address: {btc}
export AWS_ACCESS_KEY_ID={awskey}
Authorization: Bearer {jwt}
the bot posted {ghtoken} in the public channel
STRIPE_KEY = '{stripe}'
I accidentally committed {ghtoken}, please revoke it.
slack: {slack}
openai.api_key = "{openai}"
{person} and {person} will present the results on Monday.
Yesterday {person} forwarded the minutes to the whole team.
Can you correct the spelling on my card? It should read {person}.
{first} told me that the branch is closed.
Best,\n{person}
Kind regards,\n{first}
Hello {first}, thank you for your message.
Dear Ms. {last}, we received your complaint.
Dr. {last} prescribed 20 mg twice a day.
According to {person}, the second quarter was better than the first.
{person} works as an accountant in Toronto.
I spoke with {first} from your team on Tuesday about it.
Agent: thanks {first}, could you verify the postcode?
The winner is {person}!
Interviewer: {person}\nCandidate: {person}
as {person} put it, "nobody reads the manual"
Please add {person} as an authorised user.
My husband {first} and I opened a joint account.
signed, {person}
{person}'s complaint about the fee was rejected.
A letter from {person} arrived at {address}.
Meeting with {person} and Prof. {last} at 10:30.
{person} | {email} | {phone} | {address}
name,email,phone\n{person},{email},{phone}
{{"name": "{person}", "ssn": "{ssn}", "ip": "{ip}"}}
<customer><name>{person}</name><iban>{iban}</iban></customer>
Release 2.31.0 was cut on 2023-11-02; see ticket 4411982 and PR 10233.
ISBN 978-3-16-148410-0 costs 49.95, order no. 100234871.
Between 1998 and 2004 the index rose from 1,024.50 to 10,455.75 points.
Section 4.1.2.3 says that 3.14159265 is close enough, see RFC 2616 and page 120.
Flight LH 441 leaves at 18:05 from gate B22, seat 14C.
Total 12 x 250 = 3000, or 3000 / 12 = 250.
Tracking number 00340434161094042557 shows no update since 08.02.2024.
The White House and the New York Times reported on Silicon Valley and Wall Street.
Monday Morning Report: Sales North America up 12.5 %, South Africa down 3.2 %.
uuid 123e4567-e89b-12d3-a456-426614174000, sha 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b
Model XJ-4500 needs 230 V, 50/60 Hz, 1200 W; serial 20931-553.
Great Britain, Hong Kong, Los Angeles and San Francisco are the largest markets.
"""
_FORMS = {
    "email": "EMAIL_ADDRESS", "phone": "PHONE_NUMBER", "iban": "IBAN_CODE", "card": "CREDIT_CARD",
    "first": "PERSON", "last": "PERSON", "dob": "DATE_OF_BIRTH", "address": "STREET_ADDRESS", "ssn": "US_SSN",
    "itin": "US_ITIN", "licence": "DRIVER_LICENCE", "account": "BANK_ACCOUNT", "sort": "BANK_ACCOUNT", "routing": "BANK_ACCOUNT",
    "nhs": "UK_NHS", "nino": "UK_NINO", "es_id": "NATIONAL_ID", "fr_nir": "NATIONAL_ID", "de_tax": "NATIONAL_ID", "it_cf": "NATIONAL_ID",
    "nl_bsn": "NATIONAL_ID", "pl_pesel": "NATIONAL_ID", "se_pnr": "NATIONAL_ID", "fi_hetu": "NATIONAL_ID", "br_cpf": "NATIONAL_ID",
    "ip": "IP_ADDRESS", "mac": "MAC_ADDRESS", "urlcred": "URL_CREDENTIALS", "btc": "CRYPTO", "eth": "CRYPTO",
    "awskey": "API_KEY", "jwt": "API_KEY", "ghtoken": "API_KEY", "stripe": "API_KEY", "slack": "API_KEY", "openai": "API_KEY",
}  # fmt: skip
_WALLETS = (
    "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
    "bc1p5d7rjq7g6rdk2yhzks9smlaqtedr4dekq08ge8ztwac72sfr9rusxg3297", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A text and its personal data as (start, end, entity)."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def examples(split: str, n: int, seed: int = 7) -> Iterator[Example]:
    """`n` filled templates of the `split` (`dev` or `held-out`), the same on every machine."""
    r = random.Random(f"{split} {seed}")
    Faker.seed(seed)
    chosen = [line for line in _TEMPLATES.strip().split("\n") if (_hash(line) % 2 == 0) == (split == "dev")]
    for i in range(n):
        yield _fill(chosen[i % len(chosen)].replace("\\n", "\n"), r)


def _hash(line: str) -> int:
    return hashlib.sha256(line.encode()).digest()[0]


def _fill(template: str, r: random.Random) -> Example:
    text, spans = "", []
    for part in re.split(r"(\{\w+\}|\{\{|\}\})", template):
        if part in ("{{", "}}"):
            text += part[0]
        elif part.startswith("{"):
            form = part[1:-1]
            value = _VALUES[form](r)
            spans.append((len(text), len(text) + len(value), _FORMS.get(form, form.upper())))
            text += value
        else:
            text += part
    return Example(text, tuple(spans))


@lru_cache(maxsize=64)
def _faker(locale: str) -> Faker:
    return Faker(locale)


def _fake(r: random.Random, locales: str = LATIN) -> Faker:
    return _faker(r.choice(locales.split()))


def _pattern(r: random.Random, form: str) -> str:
    """`#` becomes a digit, `?` a capital, anything else stays."""
    return "".join(r.choice("0123456789") if c == "#" else r.choice(string.ascii_uppercase) if c == "?" else c for c in form)


def _random(r: random.Random, n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(r.choice(alphabet) for _ in range(n))


def _person(r: random.Random) -> str:
    fake = _fake(r)
    middle = f" {r.choice(string.ascii_uppercase)}." if r.random() < 0.1 else ""
    return f"{fake.first_name()}{middle} {fake.last_name()}"


def _card(r: random.Random) -> str:
    number = str(_fake(r, "en_US").credit_card_number())
    if len(number) == 16 and r.random() < 0.5:
        return r.choice(" -").join(number[i : i + 4] for i in range(0, 16, 4))
    if len(number) == 15 and r.random() < 0.5:
        return f"{number[:4]} {number[4:10]} {number[10:]}"
    return number


def _iban(r: random.Random) -> str:
    number = str(_fake(r, "en_GB de_DE fr_FR es_ES it_IT nl_NL pl_PL de_CH").iban())
    return " ".join(number[i : i + 4] for i in range(0, len(number), 4)) if r.random() < 0.5 else number


def _dob(r: random.Random) -> str:
    day = _faker("en_US").date_of_birth(minimum_age=18, maximum_age=90)
    return str(day.strftime(r.choice(["%m/%d/%Y", "%d.%m.%Y", "%Y-%m-%d", "%d/%m/%y", "%B %d, %Y", "%d %b %Y", "%d-%m-%Y", "%b %d %Y"])))


def _address(r: random.Random) -> str:
    fake = _fake(r, "en_US en_US en_US en_GB en_GB en_AU en_CA en_IE de_DE fr_FR es_ES it_IT nl_NL")
    form = r.random()
    if form < 0.5:
        return str(fake.street_address()).replace("\n", ", ")
    return str(fake.address()).replace("\n", ", ")


def _itin(r: random.Random) -> str:
    return f"9{_pattern(r, '##')}-{r.choice(['70', '72', '85', '91', '96'])}-{_pattern(r, '####')}"


def _checked(check: Callable[[str], bool], form: str) -> Callable[[random.Random], str]:
    def value(r: random.Random) -> str:
        while not check(found := _pattern(r, form)):
            pass
        return found

    return value


def _nhs(r: random.Random) -> str:
    number = _checked(nhs.is_valid, "4#########")(r)
    return r.choice([number, f"{number[:3]} {number[3:6]} {number[6:]}", f"{number[:3]}-{number[3:6]}-{number[6:]}"])


def _one(*forms: str) -> Callable[[random.Random], str]:
    return lambda r: _pattern(r, r.choice(forms))


def _by(locale: str, method: str) -> Callable[[random.Random], str]:
    return lambda r: str(getattr(_faker(locale), method)())


def _ssn(r: random.Random) -> str:
    value = str(_faker("en_US").ssn())
    return value if r.random() < 0.8 else value.replace("-", r.choice(["", " "]))


_VALUES: dict[str, Callable[[random.Random], str]] = {
    "person": _person,
    "first": lambda r: str(_fake(r).first_name()),
    "last": lambda r: str(_fake(r).last_name()),
    "email": lambda r: str(r.choice([_fake(r).email, _fake(r).company_email, _fake(r).free_email])()),
    "phone": lambda r: str(_fake(r, PHONES).phone_number()),
    "card": _card,
    "iban": _iban,
    "dob": _dob,
    "address": _address,
    "ssn": _ssn,
    "itin": _itin,
    "passport": _one("?########", "#########", "??#######", "C0#F#?##Y", "?#######"),
    "licence": _one("?#######", "########", "?###-####-####", "?############", "#########", "??######", "?###-###-##-###-#"),
    "account": _one("########", "##########", "############", "#########", "###########"),
    "sort": _one("##-##-##"),
    "routing": _checked(rtn.is_valid, "0########"),
    "nhs": _nhs,
    "nino": lambda r: r.choice([str, lambda v: v.replace(" ", "")])(str(_faker("en_GB").ssn())),
    "es_id": lambda r: str(r.choice([_faker("es_ES").nif, _faker("es_ES").nie])()),
    "fr_nir": _by("fr_FR", "ssn"),
    "de_tax": _checked(idnr.is_valid, "###########"),
    "it_cf": _by("it_IT", "ssn"),
    "nl_bsn": _by("nl_NL", "ssn"),
    "pl_pesel": _by("pl_PL", "pesel"),
    "se_pnr": _by("sv_SE", "ssn"),
    "fi_hetu": _by("fi_FI", "ssn"),
    "br_cpf": _by("pt_BR", "cpf"),
    "ip": lambda r: str(_faker("en_US").ipv4_public() if r.random() < 0.7 else _faker("en_US").ipv6()),
    "mac": lambda r: str(_faker("en_US").mac_address()).replace(":", r.choice(":-")),
    "urlcred": lambda r: f"{r.choice(['https', 'ftp', 'postgresql'])}://{_random(r, 6)}:{_random(r, 9)}@{_faker('en_US').domain_name()}/x",
    "btc": lambda r: r.choice(_WALLETS),
    "eth": lambda r: "0x" + _random(r, 40, "0123456789abcdef"),
    "awskey": lambda r: "AKIA" + _random(r, 16, string.ascii_uppercase + "234567"),
    "jwt": lambda r: f"eyJ{_random(r, 33)}.eyJ{_random(r, 60)}.{_random(r, 43)}",
    "ghtoken": lambda r: "ghp_" + _random(r, 36),
    "stripe": lambda r: "sk_live_" + _random(r, 24),
    "slack": lambda r: f"xoxb-{_pattern(r, '############')}-{_pattern(r, '############')}-{_random(r, 24)}",
    "openai": lambda r: "sk-" + _random(r, 48),
}
