"""What the words around a value say it is: "my passport number is" makes nine digits a passport, "order no." makes them nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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


def arithmetic(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is part of a sum."""
    return _OPERATOR_AFTER.match(text, end) is not None or _OPERATOR_BEFORE.search(text, max(0, start - 3), start) is not None


class Context:
    """Phrases of one to three words and what each speaks of."""

    def __init__(self, phrases: Mapping[str, str]) -> None:
        """`phrases` maps a topic to its phrases, separated by commas."""
        self._topics: dict[str, set[str]] = {}
        for topic, listed in {OTHER: _OTHERS, **phrases}.items():
            for phrase in listed.split(","):
                for form in {phrase.strip().lower(), phrase.replace(" ", "").lower()}:
                    self._topics.setdefault(form, set()).add(topic)
        self._last_words = frozenset(phrase.split(" ")[-1] for phrase in self._topics)

    def near(self, text: str, start: int, end: int) -> dict[str, int]:
        """Topics of the words before and after text[start:end] with their distance."""
        found: dict[str, int] = {}
        low = max(0, start - BEFORE)
        if low and (space := text.find(" ", low, start)) >= 0:
            low = space
        for topics, at in reversed(list(self._read(text, low, start))):
            if OTHER in topics and start - at <= _DENIED:
                return {**found, OTHER: start - at}
            for topic in topics - {OTHER}:
                found.setdefault(topic, start - at)
        for topics, at in self._read(text, end, min(len(text), end + AFTER)):
            for topic in topics - {OTHER}:
                found[topic] = min(found.get(topic, 999), at - end + _AFTERWARDS)
        return found

    def topics(self, text: str, low: int, high: int) -> set[str]:
        """All topics from before `low` until after `high`: what can matter for any value between."""
        found: set[str] = set()
        for topics, _ in self._read(text, max(0, low - BEFORE), min(len(text), high + AFTER)):
            found |= topics
        return found

    def _read(self, text: str, low: int, high: int) -> Iterable[tuple[set[str], int]]:
        """Topics of each phrase and where it ends."""
        words: list[str] = []
        for match in _WORD.finditer(text, low, high):
            word = match[1] or ""
            words.append(word.lower() if word[1:].islower() or word.isupper() or len(word) == 1 else "")
            if words[-1] in self._last_words:
                phrases = (" ".join(words[-n:]) for n in (1, 2, 3))
                yield set[str]().union(*(self._topics[phrase] for phrase in phrases if phrase in self._topics)), match.end()
