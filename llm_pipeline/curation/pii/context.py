"""What the words around a value say it is: "my passport number is" makes nine digits a passport, "order no." makes them nothing."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence

BEFORE, AFTER = 72, 28
_AFTERWARDS = 20
"""A word behind the value counts as if it stood so many characters further away."""
_DENIED = 20
"""A word like "order" speaks of the value within so many characters, and hides what stands before it."""
_WORD = re.compile(r"\[[A-Z][A-Z_]*(?:_[0-9a-f]+)?\]|([^\W\d_]+)")
"""A replaced value is no context: else "[PHONE] 12345678" would read as a phone number at the second look. Nor is a word in mIxEd case."""
OTHER = "#"
"""The topic of words that say a number is no one's."""
_OTHERS = (
    "order, orders, invoice, invoices, ticket, tickets, isbn, issn, ean, sku, version, release, build, serial, tracking, reference, ref, "
    "rfc, "
    "section, chapter, page, port, pid, uuid, sha, hash, commit, revision, model, item, article, isin, vin, imei, parcel, receipt, "
    "bestellung, "
    "rechnung, pedido, factura, commande, facture, ordine, fattura, block, bytes, seconds, timestamp, expression, equation, doi"
)
_OPERATOR_BEFORE, _OPERATOR_AFTER = re.compile(r"(?:[*÷×+^<]|[0-9)]\s?[=/-])\s?$"), re.compile(r"\s?[=*÷×+^>]|\s[-/]\s?[0-9]")

Said = tuple[frozenset[str], int, int]
"""What a phrase speaks of, where it starts and ends."""


def arithmetic(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is part of a sum."""
    return _OPERATOR_AFTER.match(text, end) is not None or _OPERATOR_BEFORE.search(text, max(0, start - 3), start) is not None


class Context:
    """Phrases of one to three words and what each speaks of."""

    def __init__(self, phrases: Mapping[str, str]) -> None:
        """`phrases` maps a topic to its phrases, separated by commas; a phrase in capitals counts only in capitals ("DL" is no `<dl>`)."""
        topics: dict[str, set[str]] = {}
        for topic, listed in {OTHER: _OTHERS, **phrases}.items():
            for phrase in listed.split(","):
                for form in {phrase.strip(), phrase.replace(" ", "")}:
                    topics.setdefault(form, set()).add(topic)
        self._by_last_word: dict[str, list[tuple[list[str], frozenset[str]]]] = {}
        for form, meant in topics.items():
            *before, last = form.split(" ")
            self._by_last_word.setdefault(last, []).append((before, frozenset(meant)))

    def near(self, text: str, start: int, end: int) -> dict[str, int]:
        """Topics of the words before and after text[start:end] with their distance."""
        return nearest(self.read(text, start - BEFORE, end + AFTER), start, end)

    def read(self, text: str, low: int, high: int) -> list[Said]:
        """The phrases of text[low:high] (begun at a space) in order."""
        low, high = max(0, low), min(len(text), high)
        if low and (space := text.find(" ", low, high)) >= 0:
            low = space
        words: list[str] = []
        said: list[Said] = []
        for match in _WORD.finditer(text, low, high):
            word = match[1] or ""
            words.append(word.lower())
            for before, topics in self._meant(word):
                if words[-1 - len(before) : -1] == before and (word[1:].islower() or word.isupper() or len(word) == 1):
                    said.append((topics, *match.span()))
        return said

    def _meant(self, word: str) -> Sequence[tuple[list[str], frozenset[str]]]:
        found = self._by_last_word.get(word.lower(), ())
        return [*found, *self._by_last_word.get(word, ())] if word.isupper() else found


def _begin(phrase: Said) -> int:
    return phrase[1]


def nearest(said: Sequence[Said], start: int, end: int) -> dict[str, int]:
    """Topics with the distance of their nearest phrase from a value at [start, end); a denial just before it hides what stands before."""
    found: dict[str, int] = {}
    said = said[bisect_left(said, start - BEFORE, key=_begin) : bisect_left(said, end + AFTER, key=_begin)]
    for topics, _, at in reversed(said):
        if at > start:
            continue
        if OTHER in topics and start - at <= _DENIED:
            return {**found, OTHER: start - at}
        for topic in topics - {OTHER}:
            found.setdefault(topic, start - at)
    for topics, begin, at in said:
        if begin >= end and at <= end + AFTER:
            for topic in topics - {OTHER}:
                found[topic] = min(found.get(topic, 999), at - end + _AFTERWARDS)
    return found
