"""Names in records and lists: `Last, First`, columns with a head, initials before a last name, enumerations, single names as signature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from llm_pipeline.curation.pii.columns import head, marks
from llm_pipeline.curation.pii.gazetteer import brands
from llm_pipeline.curation.pii.judge import NAME, PARTICLE, UPPER, Judge
from llm_pipeline.curation.pii.windows import Finder, Found, Look, any_case

_GIVEN = rf"{NAME}(?: (?:[{UPPER}]\.|{NAME})){{0,2}}"
_INVERTED = re.compile(
    rf"(?:^|(?<=[>\n|;\t\"“(])|(?<=: )|(?<=\| )|(?<=\b[tT]o )|(?<=\b[bB]y )|(?<=; )|(?<=\",)"
    rf"|(?<=\b[fF]or )|(?<=\bof )|(?<=er )|(?<=nt )|(?<=ee ))"
    rf"(?P<last>(?:{PARTICLE} )?{NAME}(?: {NAME})?), (?P<first>{_GIVEN})(?=[<\n|;\t\"”),(.:]|  | [|(–-]|$)"
)
_INITIALS = re.compile(rf"(?<![\w.@'’-])(?:[{UPPER}]\. ?){{1,3}}(?:{PARTICLE} )?(?P<last>{NAME})(?!\w|@|\.\w)")
_NEXT = re.compile(r",(?! (?:[A-Z]{2}|[0-9]|born\b|aged?\b))")
"""Behind "Ann, Bob" an enumeration goes on; behind "Martin, Bob, DOB" it is a record of one person."""
_NO_INITIALS = re.compile(r"[AP]\. ?M\.|U\. ?[KSN]\.|E\. ?[UG]\.|I\. ?E\.|D\. ?C\.|N\. ?Y\.|[LS]\. ?[AF]\.")
_AND = r"(?:,? (?:and|und|y|et|e|i|och|og|&|with) )"
_PAIR = re.compile(rf"(?<![\w'’\[@/.#-])(?P<a>{NAME})(?:{_AND})(?P<b>{NAME})(?: (?P<last>{NAME}))?(?![\w@\[]| [{UPPER}])")
_CAPITAL = re.compile(rf"[{UPPER}]\w* $")
_BEFORE = re.compile(rf"(?<![\w'’\[@/.#-])(?P<v>{NAME}), $")
_APART = re.compile(
    rf"[(“‘](?P<a>{NAME})[)”’]|(?:^|[:\n] ?)(?P<b>{NAME}), (?=your?\b|please\b|can\b|could\b|we\b|thanks\b|I['’ ])"
    rf"|[0-9]{{1,2}}:[0-9]{{2}}(?::[0-9]{{2}})?\]? (?:- )?(?P<c>{NAME})(?=: )"
    rf"|(?<=[a-z]), (?P<d>{NAME})(?=[!?]|\.?\s*\Z)|(?:^|\n)(?P<e>{NAME}) --? (?=[a-z])|(?<![\w'’\[@/.#-])(?P<f>{NAME})['’]s (?=[a-z])"
    rf"|(?:^|\n\n)(?P<g>{NAME}),(?=\n)"
    r"|(?<![\w@/.-])@(?P<h>[^\W\d_]{3,}) (?=[a-z])"
)
_NAMES = (
    r"(?:fore|sur|first|last|full|given|family|middle|customer|client|employee|patient|contact|user|account|card ?holder|person)?[ _-]?name"
    r"|l?name[sn]?|vorname|nachname|kunde|mitarbeiter|nom|prénom|prenom|nombre|apellidos?|titular|cognome|naam|nazwisko|imię|imie|nome"
    r"|customer|client|employee|patient|holder|passenger|traveller|traveler|member|student|owner|author|contact|tenant|lp|last|first|given"
)
_HEADED = re.compile(rf"(?:{_NAMES})", re.I)
_CELL = re.compile(rf"(?:[{UPPER}][\w'’.-]*|{PARTICLE})(?: (?:[{UPPER}][\w'’.-]*|{PARTICLE})){{0,4}}(?:, {_GIVEN})?")
_THING = re.compile(r"price|stock|quantity|qty|\b(?:sku|ean|isbn|asin)\b|product|preis|precio|prix", re.I)
"""A table with such a column is of things, and their names are no persons'."""
_INSERTED = re.compile(r"(?:VALUES|\),)\s{0,20}\(")
_ROWS = 6000
"""How many characters below a head its rows are read."""


def record_finders(judge: Judge, acting: Callable[[str, int, int], Iterator[Found]], verbs: str) -> list[Finder]:
    """Finders for names beside other things than greetings and kin; `acting` finds those before `verbs`, and shares an anchor."""
    upper, letters = "[A-ZÀ-ŽȘȚ]", "[A-Za-zÀ-ɏḀ-ỿ0-9_'’-]"
    finders = _Records(judge)

    def together(text: str, low: int, high: int) -> Iterator[Found]:
        for find in (finders.inverted, finders.listed, finders.apart, acting):
            yield from find(text, low, high)

    def beside(second: str) -> str:
        return (
            rf"{upper}{letters}+(?:,? (?:and|und|y|et|e|i|och|og|&|with) {second}|, (?:{second}|you|please|can|could|we|thanks|I)| {verbs})"
            rf"|[(“‘]{upper}{letters}+[)”’]|[0-9]\]? (?:- )?{upper}{letters}+: "
            rf"|{upper}{letters}+['’]s [a-z]|{upper}{letters}+ --? [a-z]|, {second}|{upper}{letters}+,\n|@{letters}+ [a-z]"
        )

    look = Look(re.compile(beside(f"{upper}{letters}+")), judge.holds_first, back=40)
    return [
        Finder(rf"[A-Z][.] ?(?:{PARTICLE} )?{upper}{letters}+", finders.initials, before=24, after=8),
        Finder(beside(upper), together, before=90, after=60, look=look),
        Finder(
            any_case("name|nazwisko|nom|prénom|nombre|apellido|apellidos|naam|cognome|nome|customer|patient|employee|client|last|first")
            + r"(?:[|;\t,]| [|])\S|VALUES",
            finders.headed,
            before=212,
            after=_ROWS,
        ),
    ]


class _Records:
    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def inverted(self, text: str, low: int, high: int) -> Iterator[Found]:
        """`Shapiro, Noor` in a cell, after a label or on a line of its own."""
        for match in _INVERTED.finditer(text, low, high):
            (*before, last), (first, *after) = match["last"].split(" "), match["first"].split(" ")
            if any(map(self.judge.is_first, before)) or (any(word.isupper() and len(word) > 1 for word in after) and not last.isupper()):
                continue
            known = self.judge.is_first(first) and first.lower() not in self.judge.places
            if self.judge.is_first(last) and not last.isupper() and _NEXT.match(text, match.end()):
                continue
            if (
                known
                and (last.lower() in self.judge.also_last or self.judge.is_last(last) or self.judge.may_be_last(last.title()))
                and last.lower() not in self.judge.common
            ):
                yield match.start(), match.end(), 0.87, "PERSON", "last_first"

    def initials(self, text: str, low: int, high: int) -> Iterator[Found]:
        """`J. K. Rowling`: a listed last name, or after two initials any word that is nothing else."""
        for match in _INITIALS.finditer(text, low, high):
            last, several = match["last"], match.group().count(".") > 1
            before = text[max(0, match.start() - 30) : match.start()].split(" ")
            if _NO_INITIALS.match(match.group()) or (
                len(before) > 1 and not before[-1] and before[-2][:1].isupper() and before[-2].lower() in self.judge.listed
            ):
                continue
            if self.judge.is_last(last) or (several and (self.judge.may_be_last(last) or last.lower() in self.judge.also_last)):
                yield match.start(), match.end(), 0.75 if self.judge.is_last(last) else 0.55, "PERSON", "initials"

    def listed(self, text: str, low: int, high: int) -> Iterator[Found]:
        """`Katy, Amy and William`: all are names when each may be one and most are."""
        for match in _PAIR.finditer(text, low, high):
            if match["last"] and not (
                self.judge.is_first(match["b"])
                and self.judge.is_last(match["last"])
                and not _CAPITAL.search(text, max(0, match.start() - 20), match.start())
            ):
                continue
            places, at = [match.span("a"), match.span("b")], match.start()
            while before := _BEFORE.search(text, max(low, at - 30), at):
                places.append(before.span("v"))
                at = before.start()
            words = [text[start:end] for start, end in places]
            if words[-1] == words[-2] or " & ".join(words[-2:]).lower() in brands():
                continue
            alone = list(map(self.judge.is_alone, words))
            if sum(alone) > 1 and all(sure or self.judge.may_be_last(word) for sure, word in zip(alone, words, strict=True)):
                whole = [place for place in places if not match["last"] or place != match.span("b")]
                yield from ((start, end, 0.6, "PERSON", "enumeration") for start, end in whole)

    def apart(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A single name in brackets or quotation marks, addressed (`Reminder: Ann, your ...`), or of who writes (`[10:17] Ann: `)."""
        for match in _APART.finditer(text, low, high):
            group = str(match.lastgroup)
            if self.judge.in_brand(text, *match.span(group)):
                continue
            if self.judge.is_alone(match[group]) or (group == "c" and self.judge.is_first(match[group])):
                yield match.start(group), match.end(group), 0.56, "PERSON", "apart"

    def headed(self, text: str, low: int, high: int) -> Iterator[Found]:
        """The cells below `surname`, and of SQL's `(name) VALUES ('...')`."""
        for row in _INSERTED.finditer(text, low, high):
            if table := head(text, row.end()):
                yield from self._row(text, table.row, table.mark, table.cells, text.find(")", row.end(), high))
        at, above = low, marks("")
        for line in text[low:high].splitlines(keepends=True):
            mine = marks(line)
            alike = any(n and n == m for n, m in zip(mine, above, strict=True))
            if alike and (table := head(text, at)) and table.row <= at and not any(map(_THING.search, table.cells)):
                yield from self._row(text, table.row, table.mark, table.cells, at + len(line.rstrip("\r\n")))
            at, above = at + len(line), mine

    def _row(self, text: str, begin: int, mark: str, cells: tuple[str, ...], end: int) -> Iterator[Found]:
        for cell in cells:
            close = text.find(mark, begin, end)
            close = close if close >= 0 else end
            if _HEADED.fullmatch(cell):
                value = text[begin:close].strip(" '\"")
                if _CELL.fullmatch(value) and not self.judge.is_brand(value) and self.judge.no_common(value):
                    start = text.index(value, begin)
                    yield start, start + len(value), 0.8, "PERSON", "column"
            begin = close + 1
