"""Personal data of people who do not exist: valid check digits, several formats and locales, and sentences to say it in."""

from __future__ import annotations

import hashlib
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from faker import Faker

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES")
_POOL = 80  # values per type and locale; Faker is too slow to be asked for each document
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

CONTEXTS: Mapping[str, Sequence[str]] = {
    "PERSON": (
        "My name is {}.",
        "This is {} speaking.",
        "The account holder is {}.",
        "Please ask for {}.",
        "Best regards, {}",
        "{} here, hello.",
        "I am calling for my neighbour Dr. {}.",
        "The form was signed by {} and by my wife.",
    ),
    "EMAIL_ADDRESS": (
        "My e-mail is {}.",
        "You can reach me at {}.",
        "Please write to {}.",
        "{} is my new address, the old one is closed.",
        "Reply to <{}> please.",
    ),
    "PHONE_NUMBER": (
        "My phone number is {}.",
        "Please call me back on {}.",
        "My mobile is {}.",
        "Tel: {}",
        "Ring {} after five.",
        "I changed my number to {}.",
    ),
    "CREDIT_CARD": (
        "My card number is {}.",
        "The credit card is {}.",
        "I paid with card {}.",
        "Card no. {} was blocked.",
        "It says {} on the front of the card.",
    ),
    "IBAN_CODE": (
        "My IBAN is {}.",
        "Please send it to the account {}.",
        "The transfer went to IBAN {}.",
        "IBAN: {}",
        "I moved the money to {}, was that right?",
    ),
    "US_SSN": (
        "My social security number is {}.",
        "My SSN is {}.",
        "The SSN on the form is {}.",
        "SSN {}",
        "For the tax form: social security {}.",
    ),
    "STREET_ADDRESS": (
        "I live at {}.",
        "My address is {}.",
        "Please send the letter to {}.",
        "We moved, the new home is {}.",
        "Deliver it to: {}.",
    ),
    "DATE_OF_BIRTH": ("I was born on {}.", "My date of birth is {}.", "DOB: {}.", "Born {}.", "My birthday is {}."),
    "IP_ADDRESS": (
        "My IP address is {}.",
        "The login came from {}.",
        "I see a session from IP {}.",
        "Blocked: {}.",
        "It tells me {} is not trusted.",
    ),
    "URL_CREDENTIALS": (
        "I use the link {} to sign in.",
        "The export is at {} every night.",
        "The address with the password is {} for now.",
    ),
    "API_KEY": (
        "The API key is {}.",
        "My app uses the token {}.",
        "The secret key {} has leaked.",
        "I pasted {} into the chat by mistake.",
    ),
    "PASSPORT": (
        "My passport number is {}.",
        "The passport {} is still valid.",
        "I travel on passport no. {}.",
        "Passport: {}.",
        "The number in my passport reads {}.",
    ),
    "UK_NINO": ("My national insurance number is {}.", "My NINO is {}.", "The NI number is {}.", "NI: {}."),
    "UK_NHS": ("My NHS number is {}.", "The NHS number on the letter is {}.", "NHS {} is what the clinic gave me."),
    "MAC_ADDRESS": ("The MAC address of my phone is {}.", "My router shows the MAC {}.", "The device {} cannot log in."),
    "CRYPTO": (
        "My bitcoin wallet is {}.",
        "Please refund to the BTC address {}.",
        "The crypto wallet {} is mine.",
        "I sent the coins to {}.",
    ),
}
DECOYS = (
    "The ticket is {7}.",
    "My app shows version {1}.{2}.{1}.",
    "I waited from {clock} to {clock}.",
    "The appointment is on {date} at {clock}.",
    "The error code is E-{5}-{2}.",
    "The serial number of the card reader is SN{8}.",
    "It was letter {3}-{2} of {date}.",
    "The parcel {4} {4} {2} has not arrived.",
    "I was number {3} in the queue on {date}.",
    "The invoice over {3}.{2} has the reference RF{6}.",
)
"""Numbers that are nobody's personal data."""
FOREIGN_CONTEXTS: Mapping[str, Mapping[str, str]] = {
    "de": {
        "PERSON": "Ich heiße {}.",
        "EMAIL_ADDRESS": "Meine E-Mail-Adresse ist {}.",
        "PHONE_NUMBER": "Meine Telefonnummer ist {}.",
        "IBAN_CODE": "Meine IBAN ist {}.",
    },
    "fr": {
        "PERSON": "Je m'appelle {}.",
        "EMAIL_ADDRESS": "Mon adresse e-mail est {}.",
        "PHONE_NUMBER": "Mon téléphone est le {}.",
        "IBAN_CODE": "Mon IBAN est {}.",
    },
    "es": {
        "PERSON": "Me llamo {}.",
        "EMAIL_ADDRESS": "Mi correo electrónico es {}.",
        "PHONE_NUMBER": "Mi teléfono es {}.",
        "IBAN_CODE": "Mi IBAN es {}.",
    },
}
_LOCALE = {"de": "de_DE", "fr": "fr_FR", "es": "es_ES"}
ENTITIES = tuple(CONTEXTS)


@dataclass(frozen=True)
class Pii:
    """One piece of personal data in a document: its type and exactly how it is written there."""

    entity: str
    value: str


def sentence(r: random.Random, entity: str, seed: int) -> tuple[str, Pii]:
    """An English sentence that holds a value of type `entity` from any locale, and the value."""
    value = r.choice(_pool(seed, r.choice(LOCALES))[entity])
    return r.choice(CONTEXTS[entity]).format(value), Pii(entity, value)


def decoy(r: random.Random) -> str:
    """A sentence with numbers that look like personal data and are none."""
    clock = f"{r.randint(8, 18):02d}:{r.randint(0, 59):02d}"
    date = r.choice(("{d:02d}.{m:02d}.2026", "2026-{m:02d}-{d:02d}", "{m}/{d}/2026")).format(d=r.randint(1, 28), m=r.randint(1, 12))
    return re.sub(r"\{(\w+)\}", lambda m: {"clock": clock, "date": date}.get(m[1]) or _number(r, int(m[1])), r.choice(DECOYS))


def foreign_sentence(r: random.Random, language: str, seed: int) -> tuple[str, Pii]:
    """The same in another language (de, fr, es), with a value as it is written there."""
    entity = r.choice(list(FOREIGN_CONTEXTS[language]))
    value = r.choice(_pool(seed, _LOCALE[language])[entity])
    return FOREIGN_CONTEXTS[language][entity].format(value), Pii(entity, value)


@lru_cache(maxsize=20)
def _pool(seed: int, locale: str) -> Mapping[str, tuple[str, ...]]:
    r = random.Random(f"{seed}/pii/{locale}")
    fake = Faker(locale)
    fake.seed_instance(f"{seed}/{locale}")
    return {entity: tuple(" ".join(make().split()) for _ in range(_POOL)) for entity, make in _makers(fake, r).items()}


def _makers(fake: Faker, r: random.Random) -> dict[str, Callable[[], str]]:
    """How each type is written, from the providers of one locale."""
    return {
        "PERSON": lambda: f"{fake.first_name()} {fake.last_name()}",
        "EMAIL_ADDRESS": lambda: str(r.choice((fake.email, fake.free_email, fake.company_email))()),
        "PHONE_NUMBER": lambda: str(fake.phone_number()),
        "CREDIT_CARD": lambda: _grouped(r, fake.credit_card_number(r.choice(("visa16", "mastercard", "discover"))), 4, ("", " ", "-")),
        "IBAN_CODE": lambda: _grouped(r, fake.iban(), 4, ("", " ")),
        "US_SSN": lambda: _ssn(r),
        "STREET_ADDRESS": lambda: str(fake.address()).replace("\n", ", "),
        "DATE_OF_BIRTH": lambda: fake.date_of_birth(minimum_age=18, maximum_age=90).strftime(
            r.choice(("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %B %Y"))
        ),
        "IP_ADDRESS": lambda: str(fake.ipv6() if r.random() < 0.3 else fake.ipv4_public()),
        "URL_CREDENTIALS": lambda: f"https://{fake.user_name()}:{_letters(r, 10)}@{fake.domain_name()}/{fake.uri_path()}",
        "API_KEY": lambda: _api_key(r),
        "PASSPORT": lambda: _passport(r),
        "UK_NINO": lambda: _nino(r),
        "UK_NHS": lambda: _nhs(r),
        "MAC_ADDRESS": lambda: r.choice((str.upper, str.lower))(fake.mac_address()).replace(":", r.choice(":-")),
        "CRYPTO": lambda: _bitcoin(r),
    }


def _grouped(r: random.Random, value: str, size: int, separators: Sequence[str]) -> str:
    return r.choice(separators).join(value[i : i + size] for i in range(0, len(value), size))


def _digits(r: random.Random, n: int) -> str:
    return "".join(r.choices(string.digits, k=n))


def _number(r: random.Random, n: int) -> str:
    """`n` digits without a leading zero."""
    return str(r.randint(10 ** (n - 1), 10**n - 1))


def _letters(r: random.Random, n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(r.choices(alphabet, k=n))


def _ssn(r: random.Random) -> str:
    area = r.choice([number for number in range(1, 900) if number != 666])
    return r.choice(("{}-{}-{}", "{} {} {}")).format(f"{area:03d}", f"{r.randint(1, 99):02d}", f"{r.randint(1, 9999):04d}")


def _api_key(r: random.Random) -> str:
    return r.choice(
        (
            f"sk_live_{_letters(r, 24)}",
            f"ghp_{_letters(r, 36)}",
            f"AKIA{_letters(r, 16, string.ascii_uppercase + '234567')}",
            f"xoxb-{_digits(r, 12)}-{_letters(r, 24)}",
        )
    )


def _passport(r: random.Random) -> str:
    german = r.choice("CFGHJK") + _letters(r, 8, "CFGHJKLMNPRTVWXYZ0123456789")
    return r.choice((german, r.choice(string.ascii_uppercase) + _digits(r, 8), _digits(r, 9)))


def _nino(r: random.Random) -> str:
    prefix = r.choice(("AB", "CE", "EH", "JK", "LM", "PR", "ST", "WX", "YZ", "HB"))
    digits = _digits(r, 6)
    return r.choice((f"{prefix}{digits}", f"{prefix} {digits[:2]} {digits[2:4]} {digits[4:]} ")) + r.choice("ABCD")


def _nhs(r: random.Random) -> str:
    """Ten digits, the last by modulus 11 (NHS Data Dictionary)."""
    while True:
        nine = r.choice("469") + _digits(r, 8)
        check = 11 - sum(int(digit) * weight for digit, weight in zip(nine, range(10, 1, -1), strict=True)) % 11
        if check != 10:
            number = nine + str(check % 11)
            return r.choice((number, f"{number[:3]} {number[3:6]} {number[6:]}", f"{number[:3]}-{number[3:6]}-{number[6:]}"))


def _bitcoin(r: random.Random) -> str:
    """A pay-to-public-key-hash address: Base58Check of version 0 and 20 bytes."""
    payload = b"\0" + r.randbytes(20)
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, text = int.from_bytes(payload, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + text
