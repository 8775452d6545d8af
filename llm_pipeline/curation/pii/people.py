"""Names of persons by name lists and the words around them; no model. Without half of the lists F1 is still .82 (bench_pii)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from llm_pipeline.curation.pii.gazetteer import names
from llm_pipeline.curation.pii.judge import NAME, PARTICLE, PARTICLES, TITLES, UPPER, Judge
from llm_pipeline.curation.pii.people_records import record_finders
from llm_pipeline.curation.pii.windows import Finder, Found, Look, any_case, cased

_RUN = re.compile(rf"(?<![\w'’\[@/.#-])(?<!\b[A-Z]\. ){NAME}(?: (?:[{UPPER}]\.|{PARTICLE}(?= )|{NAME})){{1,7}}(?![\w@\[])")
_OF = r"(?:von|van|de|di|du|del|della|dos|da|do|zu)(?: (?:der|den|la|los|het))?"
_TITLE = re.compile(
    rf"(?<!\w)(?P<t>(?:(?:{TITLES})\b(?:\.(?: |(?=[A-Z]))|"
    rf" ))+)(?P<v>(?:{_OF} )?{NAME}(?: (?:[{UPPER}]\.|{PARTICLE} {NAME}|{NAME})){{0,3}})"
)
_STATED = cased(
    "name|forename|surname|firstname|lastname|i am called|account holder|holder|cardholder|driver|tenant|landlord|traveler|traveller|"
    "passenger|guest|filer|taxpayer|witness|claimant|defendant|plaintiff|borrower|insured|policyholder|sender|recipient|author|subscriber|"
    "guarantor|spouse|owner|student|teacher|member|issued to|ship to|bill to|deliver to|made out to|order "
    "of|pt|to:|zeuge|zeugin|mieter|kunde|"
    "kundin|patienten|patientin|bénéficiaire|antragsteller|cliente|titular|denunciante|assistito|lavoratore|client|cliente|prefers"
    "|alias|aka|formerly|née|"
    "beneficiary|payee|speak to|speak with|spoke to|spoke with|speaking to|speaking with|signed|"
    "signed by|"
    "on behalf of|addressed to|belongs to|patient|applicant|employee|candidate|interviewer|contact|attn|nombre|nom|vorname|nachname|"
    "cognome|"
    "naam|paziente|born to|user|last name|family name|given[\"']|family[\"']|assignee|assigned to|reporter|reported by|deponent"
    "|the late|seller|buyer|belongs to|belong to|"
    "please welcome|dependent|dependant|deceased|executor|trustee|debtor|creditor|lessee|lessor|occupant|resident|visitor|caller|attendee|"
    "attendees|requester|requested by|approved by|created by|prepared by|reviewed by|submitted by|received by|booked by|customer|"
    "pacjent|pacjentka|klient|imię i nazwisko|kierowca|najemca|kontoinhaber|inhaber|fahrer|versicherter|bewerber|mitarbeiter|empfänger|"
    "absender|mieterin|locataire|titulaire|assuré|salarié|destinataire|paciente|inquilino|empleado|beneficiario|destinatario|dipendente|"
    "intestatario|medewerker|huurder|klant|patiënt|kund|achternaam|voornaam|förnamn|efternamn|sobrenome|familienname|"
    "je m'appelle|ich heiße|me llamo|mi chiamo|nazwisko|prénom|apellidos|soussigné|soussignée"
)
_LINK = r"(?: is| [A-Z]:|['\"]? {0,4}[:：]|,|=|['\"]?>| -| ?\.{1,12}|\))?[ '\"“‘\n]{0,4}"
_SELF = cased("name is|name's|full name|legal name|i am called|i'm called|je m'appelle|ich heiße|me llamo|mi nombre es|mi chiamo|name:")
_HERE = cased("this is|it's|its|i'm|i am|ich bin|soy|je suis|sono|ik ben|thx")
_CHAT = (
    "hey|hi|hello|yo|ask for|lol|said|told|uncle|auntie|aunt|cousin|boss|mate|bro|friend|friends|wife|husband|brother|sister|son"
    "|daughter|mum|mom|"
    "roommate|flatmate|colleague|coworker|manager|neighbour|neighbor|girlfriend|boyfriend|thanks|cheers|call|text|txt|tell|ask"
)
"""Before a first name in lower case, as people type."""
_OPENED = "hey|hi|hello|thanks|thx|cheers"
"""Before a comma and a first name in lower case."""
_PAIRED = "is|did|does|has|was|with|met|saw|from|by"
"""Before a first and a last name in lower case."""
_GOES_ON = frozenset(
    "again and und y e et from aus here otra what whats can could is was said says u pls please how are r did do does wanna will my your "
    "the at on in for speaking btw lol i im we he she never just still has have told wants keeps about got to".split()
)
_REST = rf"(?: [{UPPER}]\.)?(?: (?:{PARTICLE} (?:(?:der|den|la|los) )?)?{NAME}){{0,2}}"
_LOWER = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
_SAID_HERE = re.compile(
    rf"(?<!\w)(?:(?P<here>{_HERE})|(?P<chat>{_CHAT}|(?:{_OPENED}),)|{_PAIRED}) (?=(?P<v>{_LOWER}(?: [^\W\d_]\.)?(?: {_LOWER}){{0,4}})"
    r"(?P<end> ?[,.!?\n]|$| (?:and|und|y|e|et|from|aus|again|here|otra)\b)?)"
)
_CERTAIN = re.compile(
    r"(?i:name|forename|surname|driver|tenant|traveler|traveller|passenger|claimant|witness|author|issued to|ship to|"
    r"holder|beneficiary|payee|signed(?: by)?|patient|paziente|applicant|employee|candidate|interviewer|attn)\W+"
)
_NATIVE = (
    r"(?P<n>[\u0400-\u052f]{2,}(?: [\u0400-\u052f]{2,}){0,2}|[\u4e00-\u9fff]{2,4}|[\uac00-\ud7a3]{2,4}"
    r"|[\u0600-\u06ff]{2,}(?: [\u0600-\u06ff]{2,}){1,2}"
    r"|[\u0900-\u097f]{2,}(?: [\u0900-\u097f]{2,}){1,2}|[\u0370-\u03ff\u1f00-\u1fff]{3,}(?: [\u0370-\u03ff\u1f00-\u1fff]{3,}){1,2}"
    r"|[\u0590-\u05ff]{2,}(?: [\u0590-\u05ff]{2,}){1,2})(?!\w)"
)
"""Names as Cyrillic, Chinese, Korean, Arabic, Hindi, Greek and Hebrew write them: no list has them, "
"so only behind a word that announces one."""
_FOREIGN = "[\u0370-\u1fff\u4e00-\ud7a3]"
_STATED += "|姓名|名前|氏名|이름|성명|имя|Имя|ФИО|клиент|Клиент|الاسم|नाम|όνομα"
_INTRODUCTION = re.compile(rf"(?<![^\W_])(?:[a-z]{{2,12}}(?=Name))?(?:{_STATED}){_LINK}(?:(?P<v>{NAME}{_REST})|{_NATIVE})")
_FAMILY = re.compile(
    r"(?i:last[ _-]?name|surname|family(?:[ _-]?name)?|nachname|familienname|apellidos?|cognome|achternaam|nazwisko|efternamn|sobrenome)"
    r"['\"]?(?P<sure>(?: is|[:=>])\W*)?"
)
"""What follows is a last name, whether a list has it or not."""
_SAID = re.compile(rf"(?<!\w)(?:{_SELF}) (?P<v>[^\W\d_]+(?:['’-][^\W\d_]+)*(?: [^\W\d_]\.)?(?: [^\W\d_]+(?:['’-][^\W\d_]+)*){{0,3}})")
_HELLO = cased(
    "hi|hello|hey|dear|hallo|hola|bonjour|ciao|liebe|lieber|cher|chère|caro|cara|querido|querida|estimado|estimada|beste|hej|olá|salut"
)
_SURE = cased(
    "thanks|thank you|regards|sincerely|cheers|best|best wishes|yours|this is|i am|i'm|love|morning|afternoon|evening|thx|rgds|"
    "lg|vg|gruß|grüße|saludos|abrazos|cordialement|bises|groetjes|saluti|"
    "wife|husband|partner|daughter|son|brother|sister|mother|father|mom|dad|friend|colleague|boss|manager|neighbour|neighbor|assistant|"
    "uncle|"
    "aunt|cousin|kind|sohn|tochter|hijo|hija|fils|fille|llamar a|answered by"
)
_TOWARDS = cased("ask for|ask|asked|told|tell|met|meet|give|let|contact|call|called|with|from|by|to|for|and|saw|know|named|attn|cc")
_BEFORE = re.compile(
    rf"(?<!\w)(?:(?P<hello>{_HELLO})|(?P<sure>{_SURE})|(?P<way>from|to|and)|{_TOWARDS})\b[,:]?[ \n]{{1,30}}(?P<v>{NAME})"
    rf"(?= ?[,.!?;:\n)—–-]|$|\n| [a-z(+0-9]|['’]s\b)"
)
_VERBS = "said|says|told|called|calls|wants|wanted|needs|asked|asks|wrote|writes|works|worked|lives|lived|sent|thinks|thought|here|speaking"
_AFTER = re.compile(
    rf"(?<![\w'’\[@/.#-])(?P<v>{NAME}) (?:{_VERBS}|and I|from (?=[A-Z])|(?:is|was|has|will|can|could|would) "
    rf"(?:a|an|the|my|his|her|our|not|been|be|going))\b"
)
_TOWNS = frozenset("madison jackson lincoln austin jefferson raleigh charlotte santiago helena savannah sydney florence lansing".split())
"""First names that are where one goes, "from" and "to" which say nothing else."""
_ENDED = re.compile(r" ?(?:[,.;:)\]\"'/|<>\n]|-|$)|  ")
_UNLISTED = 0.52
_POSSESSIVE = re.compile(r"['’]s(?!\w)")
_SENTENCE = r"(?:[.!?…)\n0-9€$£] ?[ \n]|,\n)(?:[-~—] ?)?"
_SIGNATURE = 60
"""A signature and the end of the sentence before it have at most so many characters."""
_SIGNED = re.compile(rf"{_SENTENCE}(?P<v>{NAME}(?: (?:[{UPPER}]\.|{PARTICLE}(?= )|{NAME})){{0,3}})[.!]?\s*\Z")
_PLACING = re.compile(r"\b(?:in|at|the|your|our|near|of) $")
"""Before "Notting Hill", not before a person."""
_SUFFIXES = frozenset(
    "inc ltd llc plc corp gmbh group company bank university college hospital school sons & co street road avenue park "
    "cross station square "
    "stadium airport museum theatre theater hall tower bridge garden gardens centre center resort hotel award prize "
    "medal scientific clinic "
    "foundation institute valley hole falls hill beach bay lake island islands county".split()
)


def people_finders(locales: Sequence[str], never: Sequence[str]) -> list[Finder]:
    """Finders for the name lists of `locales`; a name that holds a word of `never` (the domain's capitalised words) does not count."""
    known = Judge(*names(tuple(locales)), frozenset(word.lower() for word in never))
    judge = _People(known)
    upper, letters = "[A-ZÀ-Ž]", "[A-Za-zÀ-ɏḀ-ỿ0-9_'’-]"
    link = r"(?: is| [A-Z]:)?[ '\"=>,.:：)“‘\n-]*"  # a plainer _LINK, which compiles in half the time
    run = rf"{upper}{letters}*(?: (?:{upper}[.]|(?:{PARTICLE} )*(?:[dl]['’])?{upper}{letters}*))+"

    stated = rf"(?:(?:^|[^A-Za-z0-9]){any_case(_STATED)}|[a-z]Name)"

    def word(worth: Callable[[str], bool], first: str = upper) -> Look:
        """A look at the word before or with whose first letter an anchor ends."""
        return Look(re.compile(first + letters + "*"), worth, back=1)

    return [
        Finder(
            rf"{upper}{letters}* (?:{PARTICLE} )*(?:[dl]['’])?{upper}", judge.full, 8, 8, Look(re.compile(run), known.holds_name, back=40)
        ),
        Finder(rf"\b(?:{TITLES})[. ]", judge.titled, before=24, after=90),
        Finder(rf"{any_case(_STATED)}{link}{_FOREIGN}", judge.introduced(_INTRODUCTION), 48, 90),
        Finder(
            rf"{stated}{link}{upper}",
            judge.introduced(_INTRODUCTION),
            48,
            90,
            word(known.ends_in_any),
        ),
        Finder(rf"\b{any_case('|'.join((_SELF, _HERE, _CHAT, _PAIRED)))} ", judge.called, 24, 90, word(known.ends_in_first, "[A-Za-zÀ-ž]")),
        Finder(rf"\b{any_case(_OPENED)}, ", judge.here, 24, 90, word(known.ends_in_first, "[a-zà-ž]")),
        Finder(rf"[{UPPER}][^\s\x00]*[^\w\x00]*\x00", judge.signed, before=_SIGNATURE),
        *record_finders(known, judge.acting, rf"(?:{_VERBS}|from|and I|is|was|has|will|can|could|would) "),
        Finder(rf"\b{any_case(_HELLO)}[,:]?[ \n]+{upper}", judge.greeted, 48, 40, word(judge.may_be_hailed)),
        Finder(rf"\b{any_case(f'{_SURE}|{_TOWARDS}')}[,:]?[ \n]+{upper}", judge.greeted, 48, 40, word(judge.is_first)),
    ]


class _People:
    """What a judge of words finds with the words around."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.things, self.words = judge, _SUFFIXES | judge.never, judge.common | judge.places
        self.no_names = _SUFFIXES - judge.also_last

    def full(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A first name and what may be a last name inside a run of capitalised words; other words before and after do not belong to it."""
        for match in _RUN.finditer(text, low, high):
            words = [(_POSSESSIVE.sub("", m.group()), m.start()) for m in re.finditer(r"[^ ]+", match.group())]
            shouted = match.group().isupper() and len(words) < 5
            i = 0
            while i < len(words) - 1:
                end, score = self._end([self.judge.spoken(word) if shouted else word for word, _ in words], i)
                if not end or any(_POSSESSIVE.match(match.group(), at + len(word)) for word, at in words[i:end]):
                    i += 1
                    continue
                last, at = words[end]
                start, close = match.start() + words[i][1], match.start() + at + len(last)
                placed = score <= _UNLISTED and _PLACING.search(text, max(0, start - 6), start)
                if not placed and not self.judge.is_brand(text[start:close]):
                    yield start, close, score, "PERSON", "full_name"
                i = end + 1

    def _end(self, words: Sequence[str], i: int) -> tuple[int, float]:
        """Index of the last word of the name that begins at word `i`, and how sure it is; 0 for none."""
        if words[i].lower() in self.judge.never or (words[i].isupper() and not words[i + 1].isupper()):
            return 0, 0.0
        if not self.judge.is_first(words[i]):
            return self._unlisted_end(words, i)
        j = i + 1
        while j < len(words) - 1 and self._links(words, j):
            j += 1
        if (
            words[j].endswith(".")
            or words[j] in PARTICLES
            or words[j].lower() in self.no_names
            or (j + 1 < len(words) and words[j + 1].lower() in self.things)
        ):
            return 0, 0.0
        both = len(words) == 2 and words[i].lower() not in self.judge.places and words[j].lower() not in self.judge.first
        listed = self.judge.is_last(words[j]) or (
            words[j].lower() in self.judge.also_last and (both or words[i].lower() not in self.judge.common)
        )
        linked = j > i + 1 and not self.judge.is_first(words[j - 1])
        if len(words[i]) < 3 and not self.judge.is_last(words[j]):
            return 0, 0.0
        if not listed and not (self.judge.may_be_last(words[j]) and (linked or words[i].lower() not in self.words)):
            return 0, 0.0
        if j + 1 < len(words) and self.judge.is_last(words[j + 1]) and words[j + 1].lower() not in self.judge.first:
            j += 1
        k = next((k for k in range(j + 1, len(words)) if words[k] not in PARTICLES), len(words))
        if j + 1 < k < len(words) and self.judge.may_be_last(words[k]):
            j = k
        return j, 0.85 if listed else 0.6

    def _unlisted_end(self, words: Sequence[str], i: int) -> tuple[int, float]:
        """A first word that no list has: an initial behind it ("Oyelaran B. Smith"), or a listed last name that ends the run."""
        if not self.judge.may_be_last(words[i]) or self.judge.is_last(words[i]) or words[i + 1].lower() in _SUFFIXES:
            return 0, 0.0
        if words[i + 1][1:] == "." and i + 2 < len(words) and self.judge.may_be_last(words[i + 2]):
            return i + 2, 0.6
        return (i + 1, _UNLISTED) if len(words) == 2 and self.judge.is_last(words[1]) and self.judge.may_be_last(words[1]) else (0, 0.0)

    def _links(self, words: Sequence[str], j: int) -> bool:
        """Word `j` is an initial, a particle, or a further first name before a last name."""
        word = words[j]
        return word.endswith(".") or word in PARTICLES or (self.judge.is_first(word) and self.judge.is_last(words[j + 1]))

    def titled(self, text: str, low: int, high: int) -> Iterator[Found]:
        for match in _TITLE.finditer(text, low, high):
            words = match["v"].split(" ")
            at = next(i for i, word in enumerate(words) if word[0].isupper())
            if words[at].lower() in PARTICLES and at + 1 < len(words):
                at += 1
            named, n = words[at], at + 1
            if named.lower() in self.judge.common and not (self.judge.is_first(named) or named.lower() in self.judge.also_last):
                continue
            if len(match["t"]) > len("mrs. ") and match["t"].islower() and named.lower() not in self.judge.listed:
                continue
            while n < len(words) and (
                self.judge.is_last(words[n]) or self.judge.is_first(words[n]) or self.judge.may_be_last(words[n]) or len(words[n]) < 4
            ):
                n += 1
            value = re.sub(r"['’]s$", "", " ".join(words[:n]))
            known = named.lower() not in self.judge.never and not match.group().startswith("MS ") and len(named) > 1
            if known and not self.judge.is_brand(match["t"] + value):
                yield match.start("v"), match.start("v") + len(value), 0.86, "PERSON", "title"

    def introduced(self, pattern: re.Pattern[str]) -> Callable[[str, int, int], Iterator[Found]]:
        """Listed names after a word that announces them; after "my name is" and the like in any case."""

        def find(text: str, low: int, high: int) -> Iterator[Found]:
            for match in pattern.finditer(text, low, high):
                if match["v"] is None:
                    yield *match.span("n"), 0.7, "PERSON", "introduction"
                    continue
                end = self._listed(match["v"])
                word = match["v"][:end].lower()
                if word in self.judge.common and not _ENDED.match(text, match.start("v") + end):
                    continue
                family = match["v"].split(" ")[0]
                if (
                    not end
                    and (said := _FAMILY.match(match.group()))
                    and (self.judge.ends_in_any if said["sure"] else self.judge.is_last)(family)
                ):
                    yield match.start("v"), match.start("v") + len(family), 0.7, "PERSON", "introduction"
                elif end:
                    yield match.start("v"), match.start("v") + end, 0.84, "PERSON", "introduction"
                elif _CERTAIN.match(match.group()) and self._unlisted(match["v"]):
                    yield match.start("v"), match.end("v"), 0.55, "PERSON", "introduction"

        return find

    def called(self, text: str, low: int, high: int) -> Iterator[Found]:
        """What somebody says to be called."""
        yield from self.introduced(_SAID)(text, low, high)
        yield from self.here(text, low, high)

    def here(self, text: str, low: int, high: int) -> Iterator[Found]:
        """Names in lower case as people type them in chats: both first and last listed, or a first name that ends the phrase."""
        for match in _SAID_HERE.finditer(text, low, high):
            words = match["v"].lower().split(" ")
            if not (match["here"] or match["v"].islower()) or words[0] in self.judge.common or not self.judge.is_first(words[0]):
                continue
            n = 2
            while len(words) > n and (words[n - 1].endswith(".") or words[n - 1] in PARTICLES):
                n += 1
            known = len(words) >= n and (self.judge.is_last(words[n - 1]) or self.judge.is_first(words[n - 1]))
            if known and words[n - 1] not in self.judge.common | _GOES_ON:
                yield match.start("v"), match.start("v") + len(" ".join(words[:n])), 0.75, "PERSON", "here"
            elif self._lone(match, words):
                yield match.start("v"), match.start("v") + len(words[0]), 0.55, "PERSON", "here"

    def _lone(self, match: re.Match[str], words: Sequence[str]) -> bool:
        """Whether the phrase ends behind a first name, or goes on with words that no last name is."""
        if not (match["here"] or match["chat"]) or len(words[0]) < (4 if match["here"] else 3) or words[0] in self.judge.places:
            return False
        return match["end"] is not None if len(words) == 1 else words[1] in _GOES_ON

    def signed(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A name by itself after the last sentence."""
        match = _SIGNED.search(text, max(low, len(text) - _SIGNATURE)) if high == len(text) else None
        if match:
            first, *rest = match["v"].split(" ")
            if self.judge.is_alone(first) or (rest and self.judge.is_first(first)):
                yield *match.span("v"), 0.6, "PERSON", "signature"

    def _unlisted(self, value: str) -> bool:
        """Two or three capitalised words that may all be names."""
        words = value.split(" ")
        return len(words) > 1 and all(word[1:] == "." or (word[0].isupper() and self.judge.may_be_last(word)) for word in words)

    def is_first(self, value: str) -> bool:
        return self.judge.is_first(value.removesuffix("'s").removesuffix("’s"))

    def may_be_hailed(self, value: str) -> bool:
        return self.is_first(value) or self.judge.may_be_last(value.removesuffix("'s").removesuffix("’s"))

    def greeted(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A single first name behind a greeting or kin ("my wife Ann"), or, when it is hardly anything else, behind "told", "from" ..."""
        for match in _BEFORE.finditer(text, low, high):
            word = re.sub(r"['’]s$", "", match["v"])
            sure = bool(match["sure"] or match["hello"])
            if self.judge.in_brand(text, match.start("v"), match.start("v") + len(word)) or (match["way"] and word.lower() in _TOWNS):
                continue
            if word.lower() not in self.judge.never and (self.judge.is_first(word) if sure else self.judge.is_alone(word)):
                yield match.start("v"), match.start("v") + len(word), 0.7 if sure else 0.55, "PERSON", "greeting"
            elif match["hello"] and text[match.end() : match.end() + 1] in (",", "!") and self.judge.may_be_last(word):
                yield match.start("v"), match.start("v") + len(word), 0.52, "PERSON", "greeting"

    def acting(self, text: str, low: int, high: int) -> Iterator[Found]:
        """A single first name before a verb of persons."""
        for match in _AFTER.finditer(text, low, high):
            if self.judge.is_alone(match["v"]) and not self.judge.in_brand(text, *match.span("v")):
                yield match.start("v"), match.end("v"), 0.55, "PERSON", "acting"

    def _listed(self, value: str) -> int:
        """Length of the leading words that are names (a single first name, or first and last), 0 for none."""
        words = [self.judge.spoken(word) if value.isupper() else word for word in value.split(" ")]
        if words[0].lower() in self.judge.never or not (
            (self.judge.is_first(words[0]) and (words[0][0].isupper() or words[0].lower() not in self.judge.common))
            or (len(words) > 1 and self.judge.is_last(words[1]) and self.judge.is_last(words[0]))
        ):
            return 0
        n = 1
        while n < len(words) and self._goes_on(words, n):
            n += 1
        while words[n - 1] in PARTICLES:
            n -= 1
        return len(" ".join(words[:n]))

    def _goes_on(self, words: Sequence[str], n: int) -> bool:
        word = words[n]
        if word in PARTICLES:
            return n + 1 < len(words)
        return word.lower() not in self.judge.never and (
            self.judge.is_last(word)
            or self.judge.is_first(word)
            or word.endswith(".")
            or (
                word not in PARTICLES
                and n < 3
                and ((self.judge.may_be_last(word) and (n < 2 or not word.islower())) or word.lower() in self.judge.also_last)
            )
        )
