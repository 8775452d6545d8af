"""A small world of products and facts, and the many ways in which people state them and ask about them.

The same grammar serves two ends: one fixed world is the fictional bank of the `support` source, and an endless supply of
random worlds is the practice text from which the shipped base model learned to read an answer out of a context.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

REFUSAL = "I do not have that information."

BRANDS = (
    "Harbor Meridian Juniper Summit Cobalt Lantern Willow Granite Compass Aurora Beacon Cedar Delta Ember Falcon Glacier "
    "Horizon Indigo Jasper Keystone Linden Mosaic Nimbus Orchard Pioneer Quartz Ridge Saffron Tundra Union Velvet Wharf "
    "Zephyr Amber Birch Coral Dune Evergreen Fern Garnet Hazel Iris Jade Kestrel Lagoon Maple Nectar Opal Pearl Quill"
).split()
PRODUCT_TYPES = (
    "Current Account",
    "Savings Account",
    "Credit Card",
    "Debit Card",
    "Home Loan",
    "Car Loan",
    "Student Account",
    "Business Account",
    "Travel Card",
    "Joint Account",
    "Term Deposit",
    "Personal Loan",
)


def _money(r: random.Random) -> str:
    whole = r.choice((r.randint(1, 99), r.randint(100, 999), r.randint(1, 99) * 100))
    return f"${whole:,}" if r.random() < 0.6 else f"${whole:,}.{r.choice((25, 49, 50, 75, 90, 95, 99))}"


def _percent(r: random.Random) -> str:
    return f"{r.randint(0, 24)}.{r.randint(1, 99):02d}%"


def _days(r: random.Random) -> str:
    return f"{r.randint(2, 60)} {r.choice(('business days', 'days', 'hours', 'working days'))}"


def _hours(r: random.Random) -> str:
    return f"{r.randint(6, 11)}:{r.choice(('00', '15', '30', '45'))} to {r.randint(15, 23)}:{r.choice(('00', '15', '30', '45'))}"


def _count(r: random.Random) -> str:
    number = r.randint(2, 40)
    what = r.choice(("transfers", "withdrawals", "payments", "points", "cards"))
    return f"{number} {what} {r.choice(('per day', 'per week', 'per month', 'per year'))}"


def _term(r: random.Random) -> str:
    return f"{r.randint(2, 40)} {r.choice(('months', 'years', 'weeks'))}"


def _place(r: random.Random) -> str:
    where = r.choice(
        ("the mobile app", "the online portal", "any branch", "the card centre", "the help desk", "a paper form", "the phone line")
    )
    how = r.choice(("", " with a passcode", " with photo ID", " after signing in", " before noon", " on weekdays"))
    return where + how


def _document(r: random.Random) -> str:
    first = r.choice(("a passport", "a payslip", "a utility bill", "a tax return", "a student card", "a signed form", "a bank statement"))
    second = r.choice(
        ("a photo", "a rent contract", "two references", "an address proof", "a driving licence", "a company register extract")
    )
    return f"{first} and {second}"


@dataclass(frozen=True)
class Attribute:
    """One property that a product can have: its names (the first is used in articles) and how its values look."""

    names: tuple[str, ...]
    value: Callable[[random.Random], str]


ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(("monthly fee", "monthly charge", "fee per month"), _money),
    Attribute(("annual fee", "yearly fee", "yearly charge"), _money),
    Attribute(("interest rate", "rate of interest", "interest percentage"), _percent),
    Attribute(("overdraft rate", "overdraft interest", "rate on overdrafts"), _percent),
    Attribute(("minimum balance", "lowest balance", "balance floor"), _money),
    Attribute(("daily withdrawal limit", "cash limit per day", "daily cash limit"), _money),
    Attribute(("transfer limit", "limit for transfers", "maximum transfer"), _money),
    Attribute(("replacement fee", "charge for a replacement", "cost of a replacement"), _money),
    Attribute(("late payment fee", "fee for paying late", "late charge"), _money),
    Attribute(("foreign transaction fee", "fee abroad", "charge for foreign payments"), _percent),
    Attribute(("processing time", "time to process a request", "handling time"), _days),
    Attribute(("delivery time", "time until delivery", "shipping time"), _days),
    Attribute(("dispute window", "time to raise a dispute", "dispute period"), _days),
    Attribute(("support hours", "hours of support", "service hours"), _hours),
    Attribute(("free allowance", "included allowance", "allowance"), _count),
    Attribute(("minimum term", "shortest term", "lock-in period"), _term),
    Attribute(("application channel", "place to apply", "way to apply"), _place),
    Attribute(("closing procedure", "way to close it", "place to close it"), _place),
    Attribute(("required documents", "documents needed", "paperwork"), _document),
    Attribute(("welcome bonus", "sign-up bonus", "joining bonus"), _money),
)

STATEMENTS = (
    "The {name} of the {product} is {value}.",
    "For the {product}, the {name} is {value}.",
    "{product}: the {name} is {value}.",
    "Customers with the {product} have a {name} of {value}.",
    "The {product} comes with this {name}: {value}.",
    "Since the last review the {name} of the {product} has been {value}.",
)
QUESTIONS = (
    "What is the {name} of the {product}?",
    "Could you tell me the {name} for the {product}?",
    "I have the {product}. What is its {name}?",
    "{product} - what is the {name}?",
    "Please tell me about the {name} of my {product}.",
    "Do you know the {name} of the {product}?",
    "I would like to know the {name} for the {product}.",
    "What {name} does the {product} have?",
    "Quick question about the {product}: what is the {name}?",
    "My question is about the {name} of the {product}.",
)
HELD_OUT_QUESTIONS = (
    "Regarding my {product}, which {name} applies?",
    "Can someone explain what {name} the {product} has?",
    "I am thinking about the {product}; what would the {name} be?",
    "Which {name} should I expect with the {product}?",
    "Hello, I need the {name} of the {product} please.",
)


@dataclass(frozen=True)
class Fact:
    """One true statement: `product` has `value` for `attribute`."""

    product: str
    attribute: Attribute
    value: str

    @property
    def key(self) -> str:
        return f"{self.product}/{self.attribute.names[0]}"

    def state(self, r: random.Random, *, canonical: bool = False) -> str:
        name = self.attribute.names[0] if canonical else r.choice(self.attribute.names)
        return r.choice(STATEMENTS).format(name=name, product=self.product, value=self.value)

    def ask(self, r: random.Random, templates: Sequence[str] = QUESTIONS) -> str:
        return r.choice(templates).format(name=r.choice(self.attribute.names), product=self.product)


@dataclass(frozen=True)
class World:
    """Everything that is true at one time, as facts grouped by product."""

    facts: tuple[Fact, ...]

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fact.product for fact in self.facts))

    def about(self, product: str) -> tuple[Fact, ...]:
        return tuple(fact for fact in self.facts if fact.product == product)

    def shifted(self, r: random.Random, *, changed: float, new_products: Sequence[str], facts_each: int) -> World:
        """The same world later: a share `changed` of the facts has another value, and `new_products` exist."""
        picked = set(r.sample(range(len(self.facts)), round(changed * len(self.facts))))
        facts = [replace(fact, value=_other(fact, r)) if i in picked else fact for i, fact in enumerate(self.facts)]
        for product in new_products:
            facts += _facts_of(product, r, facts_each)
        return World(tuple(facts))


def build_world(products: Sequence[str], facts_each: int, r: random.Random) -> World:
    return World(tuple(fact for product in products for fact in _facts_of(product, r, facts_each)))


def _facts_of(product: str, r: random.Random, n: int) -> list[Fact]:
    return [Fact(product, attribute, attribute.value(r)) for attribute in r.sample(ATTRIBUTES, n)]


def _other(fact: Fact, r: random.Random) -> str:
    while (value := fact.attribute.value(r)) == fact.value:
        pass
    return value
