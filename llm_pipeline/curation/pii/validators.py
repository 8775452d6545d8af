"""Checksums and plausibility: what tells a card, an account or a wallet from any other run of digits."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from collections import Counter

from stdnum import iban as _iban
from stdnum import luhn

_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27 "
    "GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 "
    "MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 SV28 TL23 TN24 "
    "TR26 UA29 VA22 VG24 XK20 "
)
IBAN_LENGTHS = {item[:2]: int(item[2:]) for item in _LENGTHS.split()}
"""Characters of an IBAN by country (SWIFT IBAN registry)."""
_SCHEMES = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11,16}"
    r"|(?:6011|65\d\d|64[4-9]\d|62\d\d|81\d\d)\d{12,15}|35\d{14}|(?:5018|5020|5038|56|57|58|6304|6390|67)\d{8,17}|(?:2131|1800)\d{11}"
)
"""Prefixes and lengths of the card schemes (ISO/IEC 7812 issuer ranges)."""
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_RIPPLE = "rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def card(text: str) -> bool:
    """A number of a card scheme's range and length that passes the Luhn check."""
    number = digits(text)
    return _SCHEMES.fullmatch(number) is not None and bool(luhn.is_valid(number))


def iban(text: str) -> bool:
    """ISO 13616: remainder 1 modulo 97, and the country's own form."""
    return bool(_iban.is_valid(text, check_country=False))


def ssn(text: str) -> bool:
    """Number ranges that the US Social Security Administration issues."""
    number = digits(text)
    return (
        len(number) == 9 and number[:3] not in ("000", "666") and number[0] != "9" and number[3:5] != "00" and number[5:] != "0000"
    ) and len(set(number)) > 1


def ip(text: str) -> bool:
    """A real address: not the unspecified or a loopback one, which name no one."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or text.startswith(("0.", "255.255.")))


def ipv6(text: str) -> bool:
    """Long enough to be no time, ratio or scope operator."""
    return len(text) > 6 and any(c.isdigit() for c in text) and ip(text)


def wallet(text: str) -> bool:
    """Bitcoin, Litecoin, Dogecoin, Tron (Base58Check), Ripple, Bech32/Bech32m (BIP 173, 350) or 40 hexadecimal digits (Ethereum)."""
    if re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        return len(set(text.lower())) > 8
    if text.lower().startswith(("bc1", "tb1", "ltc1")):
        return _bech32(text.lower())
    return _base58(text.translate(str.maketrans(_RIPPLE, _BASE58)) if text.startswith("r") else text)


def _base58(text: str) -> bool:
    value = 0
    for c in text:
        if c not in _BASE58:
            return False
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
    """Random enough to be a key: at least 3 bits per character, no long word in it, which has no five consonants in a row.

    A path has letters of one case between its slashes.
    """
    counts = Counter(text)
    bits = -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
    cases = any(c.islower() for c in text) and any(c.isupper() for c in text)
    few = 1 if re.fullmatch("[A-Za-z0-9+/]{40}", text) else 2
    mixed = sum(map(str.isdigit, text)) >= few and any(c.isalpha() for c in text) and ("/" not in text or cases)
    return bits >= 3 and mixed and all(re.search("[^aeiouy]{5}", run) for run in re.findall("[a-z]{7,}", text))


def password(text: str) -> bool:
    """What somebody chose: letters with digits or signs among them, and no name of a variable or call."""
    letters, digits_ = any(c.isalpha() for c in text), any(c.isdigit() for c in text)
    signs = any(c in "!#%&*?^~+=@$" for c in text)
    return letters and (digits_ or signs) and re.search(r"[(){}\[\]<>|;]|^[$%]|\.\w+\.|^(?:os|env|self)\.|\*\*\*", text) is None


def mixed(text: str) -> bool:
    """Letters, digits and either signs or letters of both cases: no word has all of them."""
    cases = any(c.islower() for c in text) and any(c.isupper() for c in text)
    return any(c.isdigit() for c in text) and any(c.isalpha() for c in text) and (cases or any(c in "!#%&*?^~+=@$" for c in text))


def token(text: str) -> bool:
    """A body that is no plain words: `sk-learn-and-more-words` has no digit and no capital."""
    if re.fullmatch(r"A(?:KI|SI|RO|ID)A[0-9A-Z]{16}", text):
        return True
    body = text[4:]
    return any(c.isdigit() for c in body) or (any(c.isupper() for c in body) and any(c.islower() for c in body))
