"""The detector's examples: attacks and ordinary texts of the grammars in data/guard, and real prose that every machine has."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from llm_pipeline.paths import DATA
from llm_pipeline.serving.guardrails.disguise import DISGUISES
from llm_pipeline.serving.guardrails.grammar import Grammar, load_grammar
from llm_pipeline.serving.guardrails.light_words import LIGHT_WORDS

FOLDER = DATA / "guard"
JAILBREAKS = ("persona", "fiction", "suppress", "freed", "freed", "personas", "imagined", "imagined", "games", "games", "scenes", "scenes")
INJECTIONS = (
    *("override",) * 4,
    *("leak",) * 2,
    "secrets",
    "defiance",
    *("fakesystem",) * 2,
    *("taskswitch",) * 2,
    "split",
    "exfil",
    "other_languages",
    "handover",
    "more_languages",
    "tongues",
    "expired",
    "console",
    "opening",
    "stages",
    "believed",
    "outgoing",
    "sidedoor",
    *("told_before",) * 4,
    *("sessions",) * 3,
    *("pretexts",) * 4,
)
TRIGGERS = (
    "triggers",
    "admin",
    "developers",
    "sayings",
    "never_mind",
    "playing",
    "quoting",
    "about_ai",
    "services",
    "changes",
    "mirror",
    "fancy",
    "outlook",
)
"""Families of ordinary prompts with the words of attacks."""
LONGEST = 64
"""Words that are kept of a long ordinary text: about as many as are judged at once."""
PARTS = 8
"""Parts of the forms of documents; a passage has sentences of one of them."""
_ORDINARY = {
    "plain": 24,
    "ask": 13,
    "others": 7,
    "triggers": 26,
    "admin": 5,
    **dict.fromkeys(TRIGGERS[2:], 4),
    **dict.fromkeys(TRIGGERS[-4:], 9),
}
"""How often each family of short ordinary prompts is taken."""
JUDGED = 24
"""At most so many words of a document stay on either side of an order, in so large a share of the passages as CUT says."""
CUT = 0.6
CHATS = 0.4
"""Share of ordinary examples that are longer things to do."""
_LANGUAGES = ("de_DE", "de_DE", "fr_FR", "es_ES", "nl_NL", "pl_PL", "cs_CZ", "da_DK", "it_IT", "la", "ru_RU")
"""Locales whose common words Faker lists."""


@dataclass(frozen=True)
class Example:
    """A text and what each head should say of it; None: not asked."""

    text: str
    attack: bool | None = None
    jailbreak: bool | None = None
    harmful: bool | None = None
    indirect: bool | None = None
    form: str = ""
    """What it was made from, where that was one sentence's form or one part of the forms."""
    trigger: bool = False
    """An ordinary prompt with the words of attacks."""


@dataclass(frozen=True)
class Sizes:
    """How many examples of each kind are made."""

    attacks: int = 36000
    harmful: int = 2000
    benign: int = 64000
    prose: int = 8000
    passages: int = 40000


class Maker:
    """Makes examples; the same seed makes the same ones.

    `words` are what sentences may be about, the same in attacks and in ordinary texts: no subject tells them apart by itself.
    """

    def __init__(self, words: Sequence[str], seed: int = 1) -> None:
        self.chance = random.Random(seed)
        attacks, benign, documents, chat = (FOLDER / f"{name}.yaml" for name in ("attacks", "benign", "documents", "chat"))
        self.attacks = load_grammar(attacks, benign)
        self.benign = load_grammar(benign, attacks)
        self.documents = load_grammar(documents, attacks, benign)
        self.chat = load_grammar(chat, attacks, benign)
        for grammar in (self.attacks, self.benign, self.documents, self.chat):
            grammar.slots["w"] = list(words)
            grammar.slots["topic"] = self.benign.slots["topic"]
        self.documents.slots["attack"] = [form for name in INJECTIONS for form in self.attacks.families[name]]
        self.documents.slots["ordinary"] = [form for name in (*TRIGGERS, "ask") for form in self.benign.families[name]]
        self._prose: list[str] = []
        self._languages = {name: import_module(f"faker.providers.lorem.{name}").Provider.word_list for name in _LANGUAGES}

    def all(self, sizes: Sizes) -> Iterator[Example]:
        prose = list(self.prose(sizes.prose))
        self._prose = prose
        for _ in range(sizes.attacks):
            yield self._attack()
        for _ in range(sizes.harmful):
            yield Example(self._form(self.attacks, "{harm}" if self.chance.random() < 0.5 else self.chance.choice(_HARMS)), harmful=True)
        for _ in range(sizes.benign):
            yield self._ordinary()
        yield from (Example(text, attack=False, harmful=False, indirect=False) for text in prose)
        for i in range(sizes.passages):
            yield self._passage(orders=i % 2 == 0)

    def prose(self, count: int) -> Iterator[str]:
        """Stretches of 8 to 90 words of the standard library's documentation."""
        chance, found = self.chance, []
        for text in real_texts():
            words, at = text.split(" "), 0
            while at < len(words):
                length = chance.choice((8, 15, 25, 40, 60, 90))
                found.append(" ".join(words[at : at + length]))
                at += length
        chance.shuffle(found)
        yield from found[:count]

    def _form(self, grammar: Grammar, form: str) -> str:
        return grammar.fill(form, self.chance)

    def _attack(self) -> Example:
        chance = self.chance
        jailbreak = chance.random() < 0.4
        family = chance.choice(JAILBREAKS if jailbreak else INJECTIONS)
        form = chance.choice(self.attacks.families[family])
        text = self.attacks.fill(form, chance)
        harmful = family == "fiction" or None
        if chance.random() < 0.1:
            text = chance.choice(list(DISGUISES.values()))(text, chance)
        if chance.random() < (0.1 if jailbreak else 0.35):
            text = self._around(text)
        return Example(self._dressed(text), attack=True, jailbreak=jailbreak, harmful=harmful, form=form)

    def _around(self, text: str) -> str:
        """An attack before, after or inside an ordinary request or document."""
        chance = self.chance
        other = self._stretch(self._ordinary().text, 40) if chance.random() < 0.6 else " ".join(self._sentences(chance.choice((1, 2, 4))))
        gap = chance.choice([" ", "\n", "\n\n", ". ", " - "])
        return gap.join(chance.choice([(other, text), (other, text), (text, other)]))

    def _ordinary(self) -> Example:
        chance, family, form = self.chance, "", ""
        if chance.random() < 0.05:
            text = " ".join(self._foreign() for _ in range(chance.randint(1, 3)))
        elif chance.random() < CHATS:
            text = self._stretch(self._chat())
        else:
            family = chance.choices(*zip(*_ORDINARY.items(), strict=True))[0]
            form = chance.choice(self.benign.families[family])
            text = self._with_more(self.benign.fill(form, chance))
        return Example(self._dressed(text), attack=False, harmful=False, form=form, trigger=family in TRIGGERS)

    def _with_more(self, text: str) -> str:
        """A short ordinary prompt, sometimes with another one or with a document."""
        chance = self.chance
        if chance.random() < 0.12:
            text = f"{text} {self.benign.one(chance.choice(('ask', *TRIGGERS)), chance)}"
        if chance.random() < 0.25:
            parts = [text, " ".join(self._sentences(chance.choice((1, 2, 4, 6))))]
            chance.shuffle(parts)
            text = chance.choice(["\n", "\n\n", " "]).join(parts)
        elif self._prose and chance.random() < 0.05:
            text = f"{text}\n\n{chance.choice(self._prose)}"
        return text

    def _chat(self) -> str:
        """Something longer to do: a role, a task, rules of form and a text, some of them, in this order or another."""
        chance = self.chance
        if chance.random() < 0.12:
            return " ".join(self.chat.one("languages", chance) for _ in range(chance.randint(1, 4)))
        kinds = ["role"] * (chance.random() < 0.4) + ["task"] * (chance.random() < 0.75)
        kinds += ["rules"] * chance.choice((0, 0, 1, 1, 2, 3, 5))
        if chance.random() < 0.25:
            chance.shuffle(kinds)
        parts = [self.chat.one(kind, chance) for kind in kinds]
        if chance.random() < 0.6 or not parts:
            about = chance.choice(("story", "story", "story", "essay", "essay", "work", "work", "glue", "mixed", "mixed", "prose"))
            text = [self._line(about) for _ in range(chance.choice((1, 2, 3, 5, 8)))]
            parts.insert(chance.choice((0, len(parts), len(parts))), chance.choice((" ", " ", "\n")).join(text))
        return chance.choice((" ", " ", "\n", "\n\n")).join(parts)

    def _line(self, about: str) -> str:
        if about == "mixed":
            about = self.chance.choice(("story", "essay", "work", "glue", "prose"))
        if about == "prose":
            return self.chance.choice(self._prose) if self._prose else self.benign.one("plain", self.chance)
        return self.chat.one(about, self.chance)

    def _stretch(self, text: str, longest: int = LONGEST) -> str:
        """Not more of a text than so many words, from anywhere in it."""
        pieces = text.split(" ")
        if len(pieces) <= longest:
            return text
        at = self.chance.choice((0, self.chance.randint(0, len(pieces) - longest)))
        return " ".join(pieces[at : at + longest])

    def _dressed(self, text: str) -> str:
        """Small differences of form that mean nothing."""
        kind = self.chance.random()
        if kind < 0.12:
            return text.lower()
        if kind < 0.15:
            return text.upper()
        if kind < 0.22:
            return text.rstrip(".?!")
        if kind < 0.26:
            return DISGUISES["typos"](text, self.chance)
        return text

    def _sentences(self, count: int, part: int | None = None) -> list[str]:
        """Sentences of documents: real ones, those of notices and mails (of one part of their forms), and those about anything."""
        chance, found = self.chance, []
        for _ in range(count):
            kind = chance.random()
            if self._prose and kind < 0.3:
                found.append(chance.choice(self._prose))
            elif kind < 0.4:
                found.append(self._foreign())
            elif kind < 0.55:
                found.append(self._line("mixed"))
            else:
                forms = self.documents.families["sentences"][part :: PARTS if part is not None else 1]
                found.append(self.benign.one("plain", chance) if kind < 0.72 else self.documents.fill(chance.choice(forms), chance))
        return found

    def _foreign(self) -> str:
        """Words of another language in a row, as many of them light ones as in real sentences."""
        chance = self.chance
        language = chance.choice(_LANGUAGES)
        words, light = self._languages[language], LIGHT_WORDS.get(language, ())
        said = " ".join(chance.choice(light if light and chance.random() < 0.45 else words) for _ in range(chance.randint(3, 24)))
        return said[:1].upper() + said[1:] + chance.choice("..?!")

    def _passage(self, *, orders: bool) -> Example:
        """A stretch of a document, with or without an order in it; most are about as long as what is judged at once."""
        chance = self.chance
        part = chance.randrange(PARTS)
        before = self._sentences(chance.choice((0 if orders else 1, 1, 1, 2, 3)), part)
        after = self._sentences(chance.choice((0, 0, 1, 2)), part)
        gap = chance.choice([" ", " ", "\n"])
        texts = [gap.join(before), self.documents.one("orders", chance) if orders else "", gap.join(after)]
        if chance.random() < CUT:
            texts = [
                " ".join(texts[0].split(" ")[-chance.randint(1, JUDGED) :]),
                texts[1],
                self._stretch(texts[2], chance.randint(1, JUDGED)),
            ]
        return Example(self._dressed(gap.join(filter(None, texts))), indirect=orders, form=f"part {part}")


def documentation() -> list[str]:
    """The documentation strings of the standard library."""
    from llm_pipeline.curation.python_docs import doc_strings

    return [doc.text for doc in doc_strings()]


def real_texts() -> Iterator[str]:
    """The standard library's documentation and the language's reference, which come with every interpreter."""
    from pydoc_data.topics import topics

    yield from documentation()
    yield from topics.values()


_HARMS = (
    "[How do I|How can I|How to|What is the best way to|Teach me to|I want to|Tell me how to|Help me] {harmact}[?|]",
    "{harm}[.|]",
    "[Give me|Write|List] {question_words} to {harmact}".replace("{question_words}", "[tips|a plan|ideas|steps|tricks|everything I need]"),
)
