"""Names of persons by name lists and the words around them; no model. Without half of the lists F1 is still .82 (bench_pii)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from llm_pipeline.curation.pii.gazetteer import common_words, names, place_words, usual_first_names
from llm_pipeline.curation.pii.windows import Finder, Found, cased

_UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĢĪİĶĹĽŁŃŇŌŐŘŚŞŠŢŤŪŮŰŹŻŽȘȚ"
_NAME = rf"[{_UPPER}]\w*(?:['’-]\w+)*"
_PARTICLE = r"(?:van|von|de|da|di|del|della|dos|do|der|den|la|le|el|bin|ibn|al|ter|ten|zu|af|av|Mc|O')"
_RUN = re.compile(rf"(?<![\w'’\[@/.#-])(?<!\b[A-Z]\. ){_NAME}(?: (?:[{_UPPER}]\.|{_PARTICLE}(?= )|{_NAME})){{1,7}}(?![\w@\[])")
_TITLES = (
    "Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Madam|Lord|Lady|Herr|Frau|Madame|Monsieur|Mme|Señor|Señora|Sr|Sra|Sig|Dhr|Mevr"
    "|MR|MRS|MS|DR|mr|mrs|ms|dr"
)
_TITLE = re.compile(rf"(?<!\w)(?:{_TITLES})\b(?:\.(?: |(?=[A-Z]))| )(?P<v>{_NAME}(?: (?:[{_UPPER}]\.|{_PARTICLE} {_NAME}|{_NAME})){{0,3}})")
_STATED = cased(
    "name|i am called|account holder|holder|beneficiary|payee|speak to|speak with|spoke to|spoke with|speaking to|speaking with|signed|"
    "signed by|"
    "on behalf of|addressed to|belongs to|patient|applicant|employee|candidate|interviewer|contact|attn|nombre|nom|vorname|nachname|"
    "cognome|"
    "naam|paziente|born to|user|je m'appelle|ich heiße|me llamo|mi chiamo"
)
_LINK = r"(?: is|['\"]?:|,|=|>| -|\.)?[ '\"\n]{0,2}"
_SELF = cased("name is|name's|i am called|i'm called|je m'appelle|ich heiße|me llamo|mi nombre es|mi chiamo|name:")
_REST = rf"(?: [{_UPPER}]\.)?(?: {_NAME}){{0,2}}"
_CERTAIN = re.compile(
    r"(?i:name|holder|beneficiary|payee|signed(?: by)?|patient|paziente|applicant|employee|candidate|interviewer|attn)\W+"
)
_INTRODUCTION = re.compile(rf"(?<![^\W_])(?:{_STATED}){_LINK}(?P<v>{_NAME}{_REST})")
_SAID = re.compile(rf"(?<!\w)(?:{_SELF}) (?P<v>[^\W\d_]+(?:['’-][^\W\d_]+)*(?: [^\W\d_]\.)?(?: [^\W\d_]+(?:['’-][^\W\d_]+)*){{0,2}})")
_HELLO = cased(
    "hi|hello|hey|dear|hallo|hola|bonjour|ciao|liebe|lieber|cher|chère|caro|cara|querido|querida|estimado|estimada|beste|hej|olá"
)
_HELLOS = frozenset(_HELLO.lower().split("|"))
_SURE = cased(
    "thanks|thank you|regards|sincerely|cheers|best|best wishes|yours|this is|i am|i'm|love|morning|afternoon|evening|"
    "wife|husband|partner|daughter|son|brother|sister|mother|father|mom|dad|friend|colleague|boss|manager|neighbour|neighbor|assistant|"
    "uncle|"
    "aunt|cousin"
)
_TOWARDS = cased("ask for|ask|asked|told|tell|met|meet|give|let|contact|call|called|with|from|by|to|for|and|saw|know|named|attn|cc")
_BEFORE = re.compile(
    rf"(?<!\w)(?:(?P<hello>{_HELLO})|(?P<sure>{_SURE})|{_TOWARDS})\b[,:]?[ \n]+(?P<v>{_NAME})(?= ?[,.!?;:\n)—–-]|$|\n| [a-z(0-9]|['’]s\b)"
)
_VERBS = "said|says|told|called|calls|wants|wanted|needs|asked|asks|wrote|writes|works|worked|lives|lived|sent|thinks|thought|here|speaking"
_AFTER = re.compile(
    rf"(?<![\w'’\[@/.#-])(?P<v>{_NAME}) (?:{_VERBS}|and I|(?:is|was|has|will|can|could|would) (?:a|an|the|my|his|her|our|not|been|be|"
    rf"going))\b"
)
_UNLISTED = 0.52
_PLACING = re.compile(r"\b(?:in|at|the|your|our|near|of) $")
"""Before "Notting Hill", not before a person."""
_SUFFIXES = frozenset(
    "inc ltd llc plc corp gmbh group company bank university college hospital school sons & co street road avenue".split()
)


def people_finders(locales: Sequence[str], never: Sequence[str]) -> list[Finder]:
    """Finders for the name lists of `locales`; a name that holds a word of `never` (the domain's capitalised words) does not count."""
    judge = _Judge(*names(tuple(locales)), frozenset(word.lower() for word in never))
    upper = "[A-ZÀ-Ž]"
    letters = "[A-Za-zÀ-ž0-9_'’-]"
    run = rf"{upper}{letters}*(?: (?:{upper}[.]|(?:{_PARTICLE} )*{upper}{letters}*))+"
    return [
        Finder(run, judge.full, before=8, after=8, worth=judge.holds_name),
        Finder(f"(?:{_TITLES})[. ]", judge.titled, before=10, after=90),
        Finder(rf"(?:{_STATED}){_LINK}{upper}", judge.introduced(_INTRODUCTION), before=4, after=90),
        Finder(f"(?:{_SELF}) ", judge.introduced(_SAID), before=4, after=90),
        Finder(
            rf"(?:(?:{_HELLO}|{_SURE}|{_TOWARDS})[,:]?[ \n]+)+{upper}[A-Za-zÀ-ɏḀ-ỿ0-9_'’-]*",  # whole words, which `worth` judges
            judge.greeted,
            before=2,
            after=40,
            worth=judge.ends_in_name,
        ),
        Finder(
            rf"{upper}{letters}+ (?:{_VERBS}|and I|is|was|has|will|can|could|would) ",
            judge.acting,
            before=2,
            after=24,
            worth=judge.starts_alone,
        ),
    ]


class _Judge:
    """Tells a name from other capitalised words with lists of names, of common words and of places, and the domain's own words."""

    def __init__(self, first: frozenset[str], last: frozenset[str], never: frozenset[str]) -> None:
        self.never, self.common, self.places = never, common_words() | never, place_words()
        self.first = (first - self.common) | (usual_first_names() & first - never)
        self.last = last - self.common
        self.also_last = last - never
        self.listed = self.first | self.also_last

    def is_first(self, word: str) -> bool:
        return word.lower() in self.first or ("-" in word and word.split("-")[0].lower() in self.first)

    def is_last(self, word: str) -> bool:
        return word.lower() in self.last or ("-" in word and any(part.lower() in self.last for part in word.split("-")))

    def is_alone(self, word: str) -> bool:
        """A first name that is hardly anything else."""
        lower = word.lower()
        return len(word) > 2 and not word.isupper() and self.is_first(word) and lower not in self.common and lower not in self.places

    def may_be_last(self, word: str) -> bool:
        """A word nobody lists, but that may be a last name: capitalised, no common word, no place, no acronym."""
        lower = word.lower()
        return len(word) > 2 and not word.isupper() and word.isalpha() and lower not in self.common and lower not in self.places

    def holds_name(self, value: str) -> bool:
        return "." in value or "-" in value or not self.listed.isdisjoint(value.lower().replace("'s", "").replace("’s", "").split(" "))

    def ends_in_name(self, value: str) -> bool:
        *before, word = value.split()
        word = word.removesuffix("'s").removesuffix("’s")
        return self.is_first(word) or (self.may_be_last(word) and any(said.strip(",:").lower() in _HELLOS for said in before))

    def starts_alone(self, value: str) -> bool:
        return self.is_alone(value.split(" ", 1)[0])

    def full(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A first name and what may be a last name inside a run of capitalised words; other words before and after do not belong to it."""
        for match in _RUN.finditer(text, low, high):
            words = [(re.sub(r"['’]s$", "", m.group()), m.start()) for m in re.finditer(r"[^ ]+", match.group())]
            i = 0
            while i < len(words) - 1:
                end, score = self._end([word for word, _ in words], i)
                if not end:
                    i += 1
                    continue
                last, at = words[end]
                start = match.start() + words[i][1]
                if score > _UNLISTED or not _PLACING.search(text, max(0, start - 6), start):
                    yield start, match.start() + at + len(last), score, "PERSON", "full_name"
                i = end + 1

    def _end(self, words: Sequence[str], i: int) -> tuple[int, float]:
        """Index of the last word of the name that begins at word `i`, and how sure it is; 0 for none."""
        if words[i].lower() in self.never or (words[i].isupper() and not words[i + 1].isupper()):
            return 0, 0.0
        if not self.is_first(words[i]):
            return self._unlisted_end(words, i)
        j = i + 1
        while j < len(words) - 1 and self._links(words, j):
            j += 1
        if words[j].endswith(".") or words[j][0].islower() or (j + 1 < len(words) and words[j + 1].lower() in _SUFFIXES | self.never):
            return 0, 0.0
        listed = self.is_last(words[j]) or (words[j].lower() in self.also_last and words[i].lower() not in self.common)
        linked = j > i + 1 and not self.is_first(words[j - 1])
        if not listed and not (self.may_be_last(words[j]) and (linked or words[i].lower() not in self.common | self.places)):
            return 0, 0.0
        if j + 1 < len(words) and self.is_last(words[j + 1]) and words[j + 1].lower() not in self.first:
            j += 1
        if j + 2 < len(words) and words[j + 1][0].islower() and self.may_be_last(words[j + 2]):
            j += 2
        return j, 0.85 if listed else 0.6

    def _unlisted_end(self, words: Sequence[str], i: int) -> tuple[int, float]:
        """A first word that no list has: an initial behind it ("Oyelaran B. Smith"), or a listed last name that ends the run."""
        if not self.may_be_last(words[i]) or self.is_last(words[i]):
            return 0, 0.0
        if words[i + 1][1:] == "." and i + 2 < len(words) and self.may_be_last(words[i + 2]):
            return i + 2, 0.6
        return (i + 1, _UNLISTED) if len(words) == 2 and self.is_last(words[1]) and self.may_be_last(words[1]) else (0, 0.0)

    def _links(self, words: Sequence[str], j: int) -> bool:
        """Word `j` is an initial, a particle, or a further first name before a last name."""
        word = words[j]
        return word.endswith(".") or word[0].islower() or (self.is_first(word) and self.is_last(words[j + 1]))

    def titled(self, text: str, low: int, high: int) -> Iterator[Found]:
        for match in _TITLE.finditer(text, low, high):
            words = match["v"].split(" ")
            if words[0].lower() in self.common and not (self.is_first(words[0]) or words[0].lower() in self.also_last):
                continue
            n = 1
            while n < len(words) and (self.is_last(words[n]) or self.is_first(words[n]) or self.may_be_last(words[n]) or len(words[n]) < 4):
                n += 1
            value = re.sub(r"['’]s$", "", " ".join(words[:n]))
            if words[0].lower() not in self.never and not match.group().startswith("MS ") and len(value) > 1:
                yield match.start("v"), match.start("v") + len(value), 0.8, "PERSON", "title"

    def introduced(self, pattern: re.Pattern[str]) -> Callable[[str, int, int], Iterator[Found]]:
        """Listed names after a word that announces them; after "my name is" and the like in any case."""

        def find(text: str, low: int, high: int) -> Iterator[Found]:
            for match in pattern.finditer(text, low, high):
                end = self._listed(match["v"])
                if end:
                    yield match.start("v"), match.start("v") + end, 0.84, "PERSON", "introduction"
                elif _CERTAIN.match(match.group()) and self._unlisted(match["v"]):
                    yield match.start("v"), match.end("v"), 0.55, "PERSON", "introduction"

        return find

    def _unlisted(self, value: str) -> bool:
        """Two or three capitalised words that may all be names."""
        words = value.split(" ")
        return len(words) > 1 and all(word[1:] == "." or (word[0].isupper() and self.may_be_last(word)) for word in words)

    def greeted(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A single first name behind a greeting or kin ("my wife Ann"), or, when it is hardly anything else, behind "told", "from" ..."""
        for match in _BEFORE.finditer(text, low, high):
            word = re.sub(r"['’]s$", "", match["v"])
            sure = bool(match["sure"] or match["hello"])
            if word.lower() not in self.never and (self.is_first(word) if sure else self.is_alone(word)):
                yield match.start("v"), match.start("v") + len(word), 0.7 if sure else 0.55, "PERSON", "greeting"
            elif match["hello"] and text[match.end() : match.end() + 1] in (",", "!") and self.may_be_last(word):
                yield match.start("v"), match.start("v") + len(word), 0.52, "PERSON", "greeting"

    def acting(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A single first name before a verb of persons."""
        for match in _AFTER.finditer(text, low, high):
            if self.is_alone(match["v"]):
                yield match.start("v"), match.end("v"), 0.55, "PERSON", "acting"

    def _listed(self, value: str) -> int:
        """Length of the leading words that are names (a single first name, or first and last), 0 for none."""
        words = value.split(" ")
        if words[0].lower() in self.never or not (
            (self.is_first(words[0]) and (words[0][0].isupper() or words[0].lower() not in self.common))
            or (len(words) > 1 and self.is_last(words[1]) and self.is_last(words[0]))
        ):
            return 0
        n = 1
        while n < len(words) and self._goes_on(words, n):
            n += 1
        return len(" ".join(words[:n]))

    def _goes_on(self, words: Sequence[str], n: int) -> bool:
        word = words[n]
        return word.lower() not in self.never and (
            self.is_last(word) or self.is_first(word) or word.endswith(".") or (word[0].isupper() and n < 3 and self.may_be_last(word))
        )
