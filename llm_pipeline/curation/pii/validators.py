"""Checksums and plausibility: what tells a card, an account or a wallet from any other run of digits."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from collections import Counter

_IBAN_LENGTHS = dict(
    zip(
        "AD AE AL AT AZ BA BE BG BH BR BY CH CR CY CZ DE DK DO EE EG ES FI FO FR GB GE GI GL GR GT HR HU IE IL IQ IS IT JO KW KZ LB LC LI LT "
        "LU LV LY MC MD ME MK MR MT MU NL NO PK PL PS PT QA RO RS SA SC SE SI SK SM SV TL TN TR UA VA VG XK".split(),
        (
            "24 23 28 20 28 20 16 22 22 29 28 21 22 28 24 22 18 28 20 29 24 18 18 27 22 22 23 18 27 28 21 28 22 23 23 26 27 30 30 20 28 32 21 20 "
            "20 21 25 27 24 22 19 27 31 30 18 15 24 28 29 25 29 24 22 24 31 24 19 24 27 28 23 24 26 29 22 24 20"
        ).split(),
        strict=True,
    )
)
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def luhn(text: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for i, digit in enumerate(reversed(digits(text))):
        value = int(digit) * (1 + i % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def card(text: str) -> bool:
    """12 to 19 digits that begin like a card scheme's and pass the Luhn check."""
    number = digits(text)
    return 12 <= len(number) <= 19 and number[0] in "23456" and len(set(number)) > 1 and luhn(number)


def iban(text: str) -> bool:
    """ISO 13616: length of the country and remainder 1 modulo 97."""
    number = re.sub(r"[\s-]", "", text).upper()
    if len(number) != int(_IBAN_LENGTHS.get(number[:2], 0)):
        return False
    return int("".join(str(int(c, 36)) for c in number[4:] + number[:4])) % 97 == 1


def ssn(text: str) -> bool:
    """Number ranges that the US Social Security Administration issues (taxpayer numbers, 9xx, included)."""
    number = digits(text)
    return len(number) == 9 and number[:3] not in ("000", "666") and number[3:5] != "00" and number[5:] != "0000" and len(set(number)) > 1


def nhs(text: str) -> bool:
    """Modulus 11 (NHS Data Dictionary)."""
    number = digits(text)
    check = 11 - sum(int(d) * (10 - i) for i, d in enumerate(number[:9])) % 11
    return len(number) == 10 and check % 11 == int(number[9]) and check != 10


def routing(text: str) -> bool:
    """ABA routing number: weights 3, 7, 1."""
    number = digits(text)
    return len(number) == 9 and number != "0" * 9 and sum(int(d) * w for d, w in zip(number, (3, 7, 1) * 3, strict=True)) % 10 == 0


def ip(text: str) -> bool:
    """A real address: not the unspecified or a loopback one, which name no one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or text.startswith(("0.", "255.255.")))


def wallet(text: str) -> bool:
    """Bitcoin (Base58Check or Bech32/Bech32m, BIP 173 and 350) or the 40 hexadecimal digits of an Ethereum address."""
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        return True
    if text.lower().startswith(("bc1", "tb1")):
        return _bech32(text.lower())
    if any(c not in _BASE58 for c in text):
        return False
    value = 0
    for c in text:
        value = value * 58 + _BASE58.index(c)
    if value >= 1 << 200:
        return False
    data = value.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(data[:-4]).digest()).digest()[:4] == data[-4:]


def _bech32(text: str) -> bool:
    prefix, _, body = text.rpartition("1")
    if not prefix or any(c not in _BECH32 for c in body):
        return False
    values = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix] + [_BECH32.index(c) for c in body]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> i & 1 else 0
    return check in (1, 0x2BC830A3)


def secret(text: str) -> bool:
    """Random enough to be a key: letters and digits mixed, at least 3 bits per character."""
    counts = Counter(text)
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    return bits >= 3 and any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
