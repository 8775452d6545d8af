"""The customers of a day: what they ask the assistant, and what would be right. From the shift on, part of it is about something new."""

from __future__ import annotations

import random
from dataclasses import dataclass

from llm_pipeline.curation.support import prose
from llm_pipeline.curation.support.bank import SupportConfig, bank
from llm_pipeline.curation.support.world import HELD_OUT_QUESTIONS, QUESTIONS, REFUSAL, Fact

NEWS = (0.3, 0.5)
"""From the shift on, the share of a day's messages about new products and new troubles lies in this range."""
_TROUBLES = (
    "My {wallet} payment with the QR code was sent twice, how do I dispute it?",
    "The {wallet} outage lasts since {when}, when will it work again?",
    "An instant payment to {shop} is stuck, can I call it back?",
    "I scanned a QR code at {shop} and the {wallet} shows an error.",
    "How do I move my {wallet} to a new phone?",
    "Why was my instant-pay dispute about {shop} rejected?",
    "Is the {wallet} safe after the outage {when}?",
    "The contactless top-up of my {wallet} failed at {shop}.",
    "Someone took tokens out of my {wallet} {when}, please freeze it.",
    "Can {shop} refund an instant payment into my {wallet}?",
)
_SHOPS = (
    "the bakery",
    "the bike shop",
    "a street market",
    "the petrol station",
    "the cinema",
    "an online shop",
    "the ferry office",
    "the pharmacy",
)
_WALLETS = ("wallet", "phone wallet", "digital wallet", "Pocket Wallet", "wallet app", "token wallet")
_WHEN = ("on Monday", "yesterday", "last night", "this morning", "an hour ago", "over the weekend")


@dataclass(frozen=True)
class CustomerMessage:
    """One question of a simulated customer, with the bare right answer on that day."""

    user: str
    question: str
    answer: str


def customer_messages(config: SupportConfig, day: str, n: int) -> list[CustomerMessage]:
    """The `n` messages of `day`; the same config, day and n give the same.

    The mix of products, of phrasings and of chatter varies from day to day without meaning anything; from the shift on 30
    to 50 % of the messages are about the new products and about troubles that the knowledge base does not cover.
    """
    r = config.random("customers", day, n)
    world = bank(config, day)
    old = set(bank(config, config.first_day).products)
    known = [fact for fact in world.facts if fact.product in old]
    new = [fact for fact in world.facts if fact.product not in old]
    weights = {product: r.uniform(0.8, 1.2) for product in world.products}
    held_out, chatty = r.uniform(0.15, 0.25), r.uniform(0.3, 0.5)
    news = r.uniform(*NEWS) if day >= config.shift_date else 0.0
    messages = []
    for _ in range(n):
        user = f"customer-{r.randrange(400):03d}"
        if r.random() < news:
            messages.append(_about_news(user, new, chatty, r))
        else:
            fact = r.choices(known, [weights[fact.product] for fact in known])[0]
            messages.append(_about(user, fact, held_out, chatty, r))
    return messages


def _about(user: str, fact: Fact, held_out: float, chatty: float, r: random.Random) -> CustomerMessage:
    question = fact.ask(r, HELD_OUT_QUESTIONS if r.random() < held_out else QUESTIONS)
    if r.random() < chatty:
        question = r.choice(prose.GREETINGS) + question + r.choice(prose.ENDINGS)
    return CustomerMessage(user, question, fact.value)


def _about_news(user: str, new: list[Fact], chatty: float, r: random.Random) -> CustomerMessage:
    if new and r.random() < 0.5:
        return _about(user, r.choice(new), 0.2, chatty, r)
    trouble = r.choice(_TROUBLES).format(wallet=r.choice(_WALLETS), shop=r.choice(_SHOPS), when=r.choice(_WHEN))
    return CustomerMessage(user, trouble, REFUSAL)
