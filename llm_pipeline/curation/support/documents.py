"""The plain documents of a day, each made from a generator of its own, so that any of them can be made again alone."""

from __future__ import annotations

import html
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from llm_pipeline.curation.support import pii, prose
from llm_pipeline.curation.support.bank import SupportConfig, absent_facts, bank
from llm_pipeline.curation.support.pii import Pii
from llm_pipeline.curation.support.world import Fact, World

REFUSAL_SHARE = 0.05
"""Share of the questions in conversations about what the product does not have."""

DECOY_SHARE = 0.25
"""Share of the documents without personal data in which somebody mentions numbers that only look like it."""


@dataclass(frozen=True)
class Doc:
    """One document before it is written: `turns` of a conversation as (customer, agent), or `paragraphs` of anything else."""

    key: str
    """Unique over all days: the conversation's id, or the stem of the file."""
    kind: str
    title: str = ""
    paragraphs: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    pii: tuple[Pii, ...] = ()
    language: str | None = "en"
    """None where the text is in no language."""
    plants: tuple[str, ...] = ()
    payload: str = ""
    """What a poisoned document must not carry into training; empty for the rest."""
    hidden: str = ""
    """Markup that a browser does not show."""

    def text(self) -> str:
        """The words as the pipeline is expected to read them; a near-duplicate's similarity is measured on this."""
        if self.turns:
            return "\n".join(f"Customer: {customer}\nAgent: {agent}" for customer, agent in self.turns)
        return "\n\n".join((self.title, *self.paragraphs) if self.title else self.paragraphs)

    def planted(self, name: str, **changes: object) -> Doc:
        return replace(self, plants=(*self.plants, name), **changes)  # type: ignore[arg-type]


def conversation(config: SupportConfig, day: str, i: int) -> Doc:
    """The i-th plain conversation of `day`: small talk, perhaps personal data, and 2 to 4 questions with bare answers."""
    r = config.random("conversation", day, i)
    turns = [_question_turn(config, day, i, k, r) for k in range(r.choice((2, 3, 3, 4)))]
    spans: list[Pii] = []
    if r.random() < config.pii_share:
        for k in range(r.choice((1, 1, 2, 3))):
            turn, values = _private_turn(config, pii.ENTITIES[(i + 5 * k) % len(pii.ENTITIES)], r)
            turns.insert(r.randint(0, k), turn)
            spans += values
    else:
        number = " " + pii.decoy(r) if r.random() < DECOY_SHARE else ""
        turns.insert(0, (prose.paragraph(r, prose.SMALL_TALK, r.choice((1, 2))) + number, prose.fill(r, r.choice(prose.AGENT_TALK))))
    if r.random() < 0.4:
        customer, agent = r.choice(prose.CLOSINGS)
        turns.append((prose.fill(r, customer), prose.fill(r, agent)))
    return Doc(f"c-{day}-{i:04d}", "conversation", turns=tuple(turns), pii=tuple(spans))


def note(config: SupportConfig, day: str, i: int) -> Doc:
    """The i-th plain internal note of `day`."""
    r = config.random("note", day, i)
    paragraphs = [prose.paragraph(r, prose.NOTE_SENTENCES, r.randint(3, 6)) for _ in range(r.choice((1, 2)))]
    spans = []
    if r.random() < config.pii_share:
        said, value = pii.sentence(r, pii.ENTITIES[i % len(pii.ENTITIES)], config.seed)
        paragraphs.append(f"A customer wrote: {said} {prose.fill(r, prose.NOTE_SENTENCES[0])}")
        spans.append(value)
    elif r.random() < DECOY_SHARE:
        paragraphs.append(f"{pii.decoy(r)} {prose.fill(r, prose.NOTE_SENTENCES[0])}")
    return Doc(
        f"n-{day}-{i:04d}",
        "note",
        f"{r.choice(prose.NOTE_TITLES)} of the {r.choice(prose.SLOTS['role'])}",
        tuple(paragraphs),
        pii=tuple(spans),
    )


def web(config: SupportConfig, day: str, i: int) -> Doc:
    """The i-th plain web page of `day`: a guide's prose."""
    r = config.random("web", day, i)
    topic = r.choice(prose.TOPICS)
    return Doc(f"w-{day}-{i:04d}", "web", topic, prose.guide_paragraphs(r, topic, 3))


def foreign(config: SupportConfig, day: str, i: int, kind: str) -> Doc:
    """A document in another language; as a conversation, the agent answers in that language too."""
    r = config.random("foreign", day, i, kind)
    language = ("de", "fr", "es")[i % 3]
    said, value = pii.foreign_sentence(r, language, config.seed)
    key = f"{kind[0]}-{day}-f{i:03d}"
    lines = r.sample(prose.FOREIGN[language], 5)
    if kind == "conversation":
        return Doc(
            key,
            kind,
            turns=((f"{lines[0]} {said}", lines[1]), (lines[2], f"{lines[3]} {lines[4]}")),
            pii=(value,),
            language=language,
            plants=("foreign",),
        )
    return Doc(
        key, kind, paragraphs=(" ".join(lines[:3]), f"{lines[3]} {said} {lines[4]}"), pii=(value,), language=language, plants=("foreign",)
    )


def page(doc: Doc, r: random.Random, uri: str) -> str:
    """The HTML of a web page: the document's prose between navigation, cookie banner and footer."""
    menu = "".join(f'<li><a href="/{name.lower()}">{name}</a></li>' for name in r.sample(prose.MENU, 8))
    body = "".join(f"<p>{html.escape(text, quote=False)}</p>\n" for text in doc.paragraphs)
    title = html.escape(doc.title or "Menu")
    article = f"<main><article><h1>{title}</h1>\n{body}{doc.hidden}</article></main>\n" if doc.paragraphs else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{doc.language or "en"}"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<link rel="canonical" href="{uri}"><script>var visits = {r.randint(1, 999)};</script></head>\n<body>\n'
        f'<header><nav><ul>{menu}</ul></nav></header>\n<div class="cookie-banner">{r.choice(prose.COOKIES)}</div>\n'
        f'{article}<aside class="sidebar"><ul>{menu}</ul></aside>\n<footer>{r.choice(prose.FOOTERS)}</footer>\n</body></html>\n'
    )


def _private_turn(config: SupportConfig, entity: str, r: random.Random) -> tuple[tuple[str, str], tuple[Pii, ...]]:
    """A customer's turn with personal data and the agent's reply, which may call the customer by the given name."""
    said, value = pii.sentence(r, entity, config.seed)
    customer, agent = prose.fill(r, r.choice(prose.SMALL_TALK)) + " " + said, prose.fill(r, r.choice(prose.AGENT_NOTED))
    if entity == "PERSON" and r.random() < 0.4:
        given = value.value.split()[0]
        return (customer, f"Hello {given}. {agent}"), (value, Pii("PERSON", given))
    return (customer, agent), (value,)


def _question_turn(config: SupportConfig, day: str, i: int, k: int, r: random.Random) -> tuple[str, str]:
    """A question and its bare answer; the facts are dealt out in turn so that none is rare."""
    world = bank(config, day)
    absent = _absent(world)
    refused = r.random() < REFUSAL_SHARE and absent
    fact = r.choice(absent) if refused else _dealt(world.facts, config, day, 4 * i + k)
    return r.choice(prose.GREETINGS) + fact.ask(r) + r.choice(prose.ENDINGS), fact.value


@lru_cache(maxsize=8)
def _absent(world: World) -> tuple[Fact, ...]:
    return absent_facts(world)


def _dealt(facts: Sequence[Fact], config: SupportConfig, day: str, n: int) -> Fact:
    """The n-th card of a pack that is shuffled anew for each round."""
    round_, place = divmod(n, len(facts))
    order = list(range(len(facts)))
    config.random("deal", day, round_).shuffle(order)
    return facts[order[place]]
