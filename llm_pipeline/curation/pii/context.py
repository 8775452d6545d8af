"""What the words around a value say it is: "my passport number is" makes nine digits a passport, "order no." makes them nothing."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Container, Iterator, Mapping, Sequence

from llm_pipeline.curation.pii.columns import head

BEFORE, AFTER = 72, 28
_AFTERWARDS = 20
"""A word behind the value counts as if it stood so many characters further away."""
_DENIED = 20
"""A word like "order" speaks of the value within so many characters, and hides what stands before it."""
_PLACEHOLDER = r"\[[A-Z][A-Z_]*(?:_[0-9a-f]+)?\]"
_A_WORD = r"W-[0-9]\b|[^\W\d_]+|#"
_WORD = re.compile(rf"{_PLACEHOLDER}|({_A_WORD})")
_WORD_OR_EMAIL = re.compile(rf"{_PLACEHOLDER}|[\w.+-]++@[\w.-]+|({_A_WORD})")
"""A replaced value is no context: else "[PHONE] 12345678" would read as a phone number at the second look. Nor is a part of an e-mail
address, or a word in mIxEd case, but for `camelCase`, which is several. A form's name ("W-9") and "#" are words."""
_CAMEL = re.compile(r"[a-z]{2,}(?:[A-Z][a-z]+)+|(?:[A-Z][a-z]+){2,}|[A-Z]?[a-z]{2,}[A-Z]{2,}")
_HUMP = re.compile("[A-Z]?[a-z]+|[A-Z]+")
_CUT = re.compile(r"[^\w\]]")
_JOINED = 6
"""Phrases of more characters may be written as one word: "api key" and "apikey", but not "a c" and "ac"."""
_HEADED = 10
"""The head of a column counts as if it stood so many characters before the value."""
_NUMBERS = ("nummer", "number", "nr", "num")
_VALUE = re.compile(rf"{_PLACEHOLDER}|[0-9*](?:[ ./:*-]?[0-9*]){{3,}}")
_DATED = re.compile(
    r"(?:19|20)[0-9]{2}(?:[-/. ][0-9]{1,2}[-/. ][0-9]{1,2})?|[0-9]{1,2}([-/. ])[0-9]{1,2}\1(?:(?:19|20)?[0-9]{2})"
    r"|[0-9]{1,2}[ -](?:19|20)[0-9]{2}"
)
_LISTED = re.compile(
    r"(?:[\s,;&/+|]|\b(?:and|or|not|nor|than|instead of|rather|und|oder|nicht|statt|et|ou|pas|y|e|o|no|non|en|of|niet|och|inte|to|then"
    r"|again|that['’]?s)\b)*"
)
_OWN = re.compile(rf"(?: (?:number|no|nr|num|id|is|was|are)\b\.?)?[^\w\[]{{0,4}}(?:{_PLACEHOLDER}|\w{{0,3}}[-]?\w{{0,3}}[0-9*])")
OTHER = "#"
"""The topic of words that say a number is no one's."""
_OTHERS = (
    "order, orders, invoice, invoices, ticket, tickets, isbn, issn, ean, sku, version, release, build, serial, tracking, reference, ref, "
    "rfc, "
    "section, chapter, page, port, pid, uuid, sha, hash, commit, revision, model, item, article, isin, vin, imei, parcel, receipt, "
    "bestellung, "
    "rechnung, pedido, factura, commande, facture, ordine, fattura, block, bytes, seconds, timestamp, expression, equation, doi, builds, "
    "case no, case number, docket, rollback, firmware, upgrade, compte rendu, part, parts, drawing, flight, flug, vuelo, booking, statement"
)
_OPERATOR_BEFORE, _OPERATOR_AFTER = re.compile(r"(?:[*÷×+^<]|[0-9]\)?\s?[=/-])\s?$"), re.compile(r"\s?[=*÷×+^>]|\s[-/]\s?[0-9]")

Said = tuple[frozenset[str], int, int]
"""What a phrase speaks of, where it starts and ends."""


def arithmetic(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is part of a sum."""
    return _OPERATOR_AFTER.match(text, end) is not None or _OPERATOR_BEFORE.search(text, max(0, start - 3), start) is not None


class Context:
    """Phrases of one to three words and what each speaks of."""

    def __init__(self, phrases: Mapping[str, str], of_dates: bool = False) -> None:
        """`phrases` maps a topic to its phrases, separated by commas; a phrase in capitals counts only in capitals ("DL" is no `<dl>`).

        A date between a phrase and a value is a value of its own only for a context `of_dates`: "passport of 4 May 2019, X123".
        """
        self._of_dates = of_dates
        topics: dict[str, set[str]] = {}
        for topic, listed in {OTHER: _OTHERS, **phrases}.items():
            for phrase in listed.split(","):
                for form in {phrase.strip(), phrase.replace(" ", "") if len(phrase) > _JOINED else phrase.strip()}:
                    topics.setdefault(form, set()).add(topic)
        self._by_last_word: dict[str, list[tuple[list[str], frozenset[str]]]] = {}
        for form, meant in topics.items():
            *before, last = form.split(" ")
            self._by_last_word.setdefault(last, []).append((before, frozenset(meant)))

    def near(self, text: str, start: int, end: int) -> dict[str, int]:
        """Topics of the words before and after text[start:end], and of the head of its column, with their distance."""
        return self.nearest(text, self.read(text, start - BEFORE, end + AFTER), start, end)

    def nearest(self, text: str, said: Sequence[Said], start: int, end: int) -> dict[str, int]:
        """The same out of the phrases that were read around."""
        found = nearest(text, said, start, end, self._of_dates)
        if OTHER not in found and (table := head(text, start)) and (cell := table.above(text, start)):
            for topics, *_ in self.read(cell, 0, len(cell)):
                found |= {topic: min(_HEADED, found.get(topic, _HEADED)) for topic in topics}
        return found

    def headed(self, text: str, at: int) -> set[str]:
        """All topics of the head of the table that holds place `at`."""
        table = head(text, at)
        return {topic for cell in table.cells for topics, *_ in self.read(cell, 0, len(cell)) for topic in topics} if table else set()

    def read(self, text: str, low: int, high: int) -> list[Said]:
        """The phrases of text[low:high] (begun between words) in order."""
        low, high = max(0, low), min(len(text), high)
        if low and (cut := _CUT.search(text, low, high)):
            low = cut.start()
        words: list[str] = []
        said: list[Said] = []
        pattern, known = _WORD if text.find("@", low, high) < 0 else _WORD_OR_EMAIL, self._by_last_word
        for match in pattern.finditer(text, low, high):
            word = match[1] or ""
            lower = word.lower()
            if lower != word and lower[1:] != word[1:] and _CAMEL.fullmatch(word):
                for hump in _HUMP.finditer(word):
                    words.append(hump.group().lower())
                    said += self._ended(hump.group(), words, match.start() + hump.start(), match.start() + hump.end())
                continue
            if lower not in known and lower.endswith(_NUMBERS):
                word = lower = _named(lower, known)
            words.append(lower)
            if (lower in known or word in known) and (word[1:].islower() or word.isupper() or len(word) == 1):
                said += self._ended(word, words, *match.span())
        return said

    def _ended(self, word: str, words: Sequence[str], start: int, end: int) -> Iterator[Said]:
        """The phrases that end with the last word."""
        for before, topics in self._meant(word):
            if words[-1 - len(before) : -1] == before:
                yield topics, start, end

    def _meant(self, word: str) -> Sequence[tuple[list[str], frozenset[str]]]:
        found = self._by_last_word.get(word.lower(), ())
        return [*found, *self._by_last_word.get(word, ())] if word.isupper() else found


def _named(word: str, known: Container[str]) -> str:
    """What a compound is the number of, where that is known: "personnr", "Pasnummer"."""
    stem = word.removesuffix(next(filter(word.endswith, _NUMBERS)))
    return next((form for form in (stem, stem.removesuffix("s")) if form in known), word)


def _begin(phrase: Said) -> int:
    return phrase[1]


def nearest(text: str, said: Sequence[Said], start: int, end: int, of_dates: bool) -> dict[str, int]:
    """Topics with the distance of their nearest phrase from a value at [start, end).

    A denial just before it hides what stands before; a phrase before another value speaks of that one, unless the two are a list.
    """
    found: dict[str, int] = {}
    said = said[bisect_left(said, start - BEFORE, key=_begin) : bisect_left(said, end + AFTER, key=_begin)]
    taken = _taken(text, start, of_dates)
    for topics, _, at in reversed(said):
        if at > start:
            continue
        if at <= taken:
            break
        if OTHER in topics and start - at <= _DENIED:
            return {**found, OTHER: start - at}
        for topic in topics - {OTHER}:
            found.setdefault(topic, start - at)
    for topics, begin, at in said:
        if begin >= end and at <= end + AFTER and not _OWN.match(text, at):
            for topic in topics - {OTHER}:
                found[topic] = min(found.get(topic, 999), at - end + _AFTERWARDS)
    return found


def _taken(text: str, start: int, of_dates: bool) -> int:
    """Where the last value before `start` begins that is not listed with the one at `start`; -1 for none."""
    low = max(0, start - BEFORE)
    end = start
    for match in reversed(list(_VALUE.finditer(text, low, start))):
        if not of_dates and _DATED.fullmatch(match.group()):
            continue
        if not _LISTED.fullmatch(text, match.end(), end):
            return match.start()
        end = match.start()
    return -1
