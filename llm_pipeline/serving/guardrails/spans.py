"""Values with a form of their own: personal data, keys and tokens, and code that would run where an answer is shown.

The finders of `curation.pii` know many more kinds but need polars (70 MB in every gateway) and whole texts; these few read a growing
text too: the `regex` package says where a match could still begin or go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]

CONTEXT = 120
"""Characters before a place that a pattern may look back at."""
HIDDEN = "\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\u2060-\u2064\ufeff\u00ad\U000e0100-\U000e01ef"
"""Tags, bidirectional controls, zero-width characters and variation selectors (not the joiners that some scripts need)."""


@dataclass(frozen=True)
class Kind:
    """One kind of value. `valid` says how many characters of what the pattern matched are one; 0: none."""

    name: str
    pattern: Any
    trigger: re.Pattern[str]
    """Stands in every `folded` text that a match is in or begins in, at the latest when a space follows the match's first word. Its
    branches begin with letters or are one class: then `re` skips quickly to where one may begin."""
    valid: Callable[[str], int] = len
    joints: str = ""
    """Characters that may stand between a match and what lengthens it."""

    def find(self, text: str, start: int = 0) -> Iterator[tuple[int, int]]:
        for match in self.pattern.finditer(text, start):
            if length := self.valid(match[0]):
                yield match.start(), match.start() + length

    def open_end(self, text: str, start: int = 0) -> int:
        """Where a match may begin or have begun that more text could complete, lengthen or undo; the text's length when nowhere."""
        for match in self.pattern.finditer(text, start, partial=True):
            if match.partial or all(c in self.joints for c in text[match.end() :]):
                return int(match.start())
        return len(text)


def luhn(text: str) -> bool:
    """Whether the digits of `text` pass the check of payment cards (ISO/IEC 7812-1)."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0 and any(digits)


def iban(text: str) -> bool:
    """Whether `text` passes the mod-97 check of account numbers (ISO 13616)."""
    compact = text.replace(" ", "")
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _iban_length(text: str) -> int:
    """Words in capitals after an account number look like more groups of it."""
    ends = [len(text), *(i for i in range(len(text) - 1, 14, -1) if text[i] == " ")]
    return next((end for end in ends if iban(text[:end])), 0)


def _random(text: str) -> int:
    """A value after "password:" is one when it is no plain word: a digit, or capitals inside."""
    value = text.split()[-1].strip("\"'=:")
    return len(text) if any(c.isdigit() for c in value) and any(c.isalpha() for c in value) else 0


def _kind(
    name: str,
    trigger: str,
    *patterns: str,
    words: Sequence[str] = (),
    valid: Callable[[str], int] = len,
    joints: str = "",
    flags: int = regex.I,
) -> Kind:
    starts = "|".join(rf"{word}(?<!\w{word})" for word in words)
    triggers = re.compile("|".join(filter(None, (trigger, starts))))
    return Kind(name, regex.compile("|".join(patterns), flags), triggers, valid, joints)


_TOKENS = (
    r"sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{20,200}",
    r"[sprw]k_(?:live|test)_[A-Za-z0-9]{16,200}",
    r"whsec_[A-Za-z0-9]{20,100}",
    r"gh[pousr]_[A-Za-z0-9]{30,255}",
    r"github_pat_[A-Za-z0-9_]{22,255}",
    r"glpat-[A-Za-z0-9_-]{20,64}",
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    r"AIza[0-9A-Za-z_-]{35}",
    r"ya29\.[0-9A-Za-z_-]{20,200}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,250}",
    r"hf_[A-Za-z0-9]{30,64}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,250}",
    r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}",
    r"eyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{0,1000}",
    r"lp-[A-Za-z0-9_-]{32,64}",
)
"""Forms that issuers publish so that leaked keys are found; the last one is this gateway's own."""
_LONG = r"[\w.-]{15}"
KINDS = {
    kind.name: kind
    for kind in (
        _kind("email", "@", r"[a-z0-9_.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", joints="."),
        _kind(
            "card",
            r"\d[ -]?(?:$|(?:\d[ -]?){8})",
            r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)",
            valid=lambda text: len(text) * luhn(text),
            joints=" -",
        ),
        _kind(
            "iban",
            r"\d\d(?<=[a-z]{2}..)",
            r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Z0-9])",
            valid=_iban_length,
            joints=" ",
            flags=0,
        ),
        _kind("secret_token", _LONG, rf"(?<![\w-])(?:{'|'.join(_TOKENS)})", flags=0),
        _kind(
            "secret_key",
            "-----",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,16000}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
            flags=0,
        ),
        _kind(
            "secret_named",
            "",
            r"\b(?:api|access|secret|auth)[_ -]?(?:key|token)[\"']?\s{0,3}(?:\bis\b|[:=])\s{0,3}[\"']?[^\s\"',;]{8,200}",
            r"\b(?:password|passwd|pwd)[\"']?\s{0,3}(?:\bis\b|[:=])\s{0,3}[\"']?[^\s\"',;]{8,200}",
            words=("api", "access", "secret", "auth", "key", "token", "password", "passwd", "pwd"),
            valid=_random,
        ),
        _kind(
            "html",
            r"<[a-z/]|<$|!\[|data:",
            r"</?(?:script|iframe|object|embed|link|meta|base|form|svg|style)\b[^>]{0,300}>?",
            r"<[a-z][^<>]{0,300}\son[a-z]{3,20}\s{0,3}=[^<>]{0,300}>?",
            r"\bjavascript\s{0,3}:",
            r"\bdata:text/html",
            r"!\[[^\]\n]{0,200}\]\(\s{0,3}https?://[^)\s]{1,300}[?&][^)\s=]{1,40}=[^)\s]{0,500}\)",
            words=("javascript",),
        ),
        _kind(
            "sql",
            r";|'\s{0,3}(?:or|and)\b|\"\s{0,3}(?:or|and)\b|\)\s{0,3}(?:or|and)\b|xp_",
            r"['\")]\s{0,3};\s{0,3}(?:drop|delete|insert|update|alter|truncate|exec|shutdown)\b",
            r";\s{0,3}(?:drop|truncate)\s{1,5}(?:table|database|schema)\b",
            r"['\"]\s{0,3}(?:or|and)\s{1,3}(['\"]?)\w{1,20}\1\s{0,3}=\s{0,3}\1\w{1,20}",
            r"\bunion\s{1,5}(?:all\s{1,5})?select\b",
            r"\bxp_cmdshell\b",
            r"\bwaitfor\s{1,5}delay\s{1,5}'",
            words=(r"union\b", "waitfor"),
        ),
        _kind(
            "shell",
            r"/dev/|:\(\)|\$\(|;\s{0,3}cat\b|&\s{0,3}cat\b|\|\s{0,3}cat\b",
            r"\brm\s{1,3}-[rf]{1,3}\s{1,3}(?:-{1,2}[\w-]{1,20}\s{1,3}){0,2}[/~*$]",
            r"\b(?:curl|wget)\s[^|\n]{1,200}\|\s{0,3}(?:sudo\s{1,3})?(?:ba|z|da)?sh\b",
            r":\(\)\s{0,3}\{\s{0,3}:\s{0,3}\|\s{0,3}:\s{0,3}&\s{0,3}\}\s{0,3};",
            r"\bmkfs\.\w{2,6}\s{1,3}/dev/",
            r"\bdd\s{1,3}if=/dev/\w{1,10}\s{1,3}of=/dev/",
            r">\s{0,3}/dev/sd[a-z]",
            r"/dev/tcp/\d",
            r"\b(?:nc|ncat|netcat)\s[^\n]{0,60}-e\s{1,3}/bin/",
            r"[;&|]\s{0,3}cat\s{1,3}/etc/(?:passwd|shadow)",
            r"\$\((?:curl|wget|cat|rm|nc)\s",
            r"\bpowershell\b[^\n]{0,60}\s-e(?:nc|ncodedcommand)?\s",
            words=[rf"{name}\b" for name in ("rm", "curl", "wget", "mkfs", "dd", "nc", "ncat", "netcat", "powershell")],
        ),
        _kind("hidden", rf"[\x00-\x08\x1b\x9b{HIDDEN}]", rf"[\x1b\x9b]\[?[0-9;?]{{0,12}}[A-Za-z]?|[{HIDDEN}\x00-\x08]"),
    )
}
SECRETS = ("secret_token", "secret_key", "secret_named")
_FOLDED = str.maketrans("ſıİ", "sii")


def folded(text: str) -> str:
    """In lower case, as patterns that ignore case see the text (there are three letters more that they take for "s" and "i")."""
    return text.lower() if text.isascii() else text.translate(_FOLDED).lower()
