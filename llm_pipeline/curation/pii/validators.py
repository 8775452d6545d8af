"""Checksums and plausibility: what tells a card, an account or a wallet from any other run of digits."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from collections import Counter

_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27 "
    "GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 "
    "MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 SV28 TL23 TN24 "
    "TR26 UA29 VA22 VG24 XK20 "
)
IBAN_LENGTHS = {item[:2]: int(item[2:]) for item in _LENGTHS.split()}
"""Characters of an IBAN by country (SWIFT IBAN registry)."""
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
    if len(number) != IBAN_LENGTHS.get(number[:2], 0):
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
