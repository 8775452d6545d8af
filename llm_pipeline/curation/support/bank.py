"""The fictional bank: its settings, what is true on which day, and its knowledge-base articles."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

from llm_pipeline.curation.support.prose import TOPICS, guide_paragraphs
from llm_pipeline.curation.support.world import ATTRIBUTES, BRANDS, PRODUCT_TYPES, REFUSAL, Attribute, Fact, World, build_world
from llm_pipeline.errors import ConfigError

# Left out because they are also given names, so that a product is never rightly taken for a person.
_GIVEN_NAMES = {
    "Jasper",
    "Willow",
    "Amber",
    "Iris",
    "Jade",
    "Hazel",
    "Pearl",
    "Fern",
    "Opal",
    "Coral",
    "Juniper",
    "Aurora",
    "Linden",
    "Garnet",
}
_NEW_PRODUCT_TYPES = ("Pocket Wallet", "Instant Pay", "Crypto Vault", "Round-Up Jar")


@dataclass(frozen=True)
class SupportConfig:
    """What decides every byte of the `support` source."""

    seed: int = 17
    first_day: str = "2026-01-01"
    days: int = 14
    documents_per_day: int = 550
    shift_day: int = 8
    """Number of the first day (counted from 1) on which the bank has changed."""
    products: int = 10
    facts_per_product: int = 6
    changed: float = 0.5
    """Share of the facts that have another value from the shift on."""
    new_products: int = 2
    pii_share: float = 0.4
    """Share of the plain conversations and notes that contain personal data."""

    def __post_init__(self) -> None:
        if not 1 <= self.products <= len(PRODUCT_TYPES):
            raise ConfigError(f"products: received {self.products}, expected 1 to {len(PRODUCT_TYPES)}")
        if not 0 <= self.new_products <= len(_NEW_PRODUCT_TYPES):
            raise ConfigError(f"new_products: received {self.new_products}, expected 0 to {len(_NEW_PRODUCT_TYPES)}")
        if not 1 <= self.facts_per_product <= len(ATTRIBUTES) - 5:
            raise ConfigError(f"facts_per_product: received {self.facts_per_product}, expected 1 to {len(ATTRIBUTES) - 5}")
        if self.documents_per_day < 50:
            raise ConfigError(f"documents_per_day: received {self.documents_per_day}, expected at least 50 so that every plant has room")

    @property
    def all_days(self) -> tuple[str, ...]:
        """ISO dates of all days, in order."""
        first = date.fromisoformat(self.first_day)
        return tuple((first + timedelta(days=i)).isoformat() for i in range(self.days))

    @property
    def shift_date(self) -> str:
        return (date.fromisoformat(self.first_day) + timedelta(days=self.shift_day - 1)).isoformat()

    def number(self, day: str) -> int:
        """1 for the first day; a day outside the generated range is an error."""
        if day not in self.all_days:
            raise ConfigError(f"day {day!r} is outside the support source: expected {self.all_days[0]} to {self.all_days[-1]}")
        return self.all_days.index(day) + 1

    def random(self, *parts: object) -> random.Random:
        """A generator of its own for each thing that is made, so any one can be made again alone."""
        return random.Random("/".join(map(str, (self.seed, *parts))))


@dataclass(frozen=True)
class Article:
    """A knowledge-base page; a later one with the same slug is its newer revision."""

    slug: str
    title: str
    paragraphs: tuple[str, ...]

    @property
    def uri(self) -> str:
        return article_uri(self.slug)

    def markdown(self) -> str:
        return f"# {self.title}\n\n" + "\n\n".join(self.paragraphs) + "\n"


def slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def article_uri(name: str) -> str:
    """Where the article about a product (or with a slug) is, the same every day: the `relevant` entry of a question about it."""
    return f"support://articles/{slug(name)}"


def bank(config: SupportConfig, day: str) -> World:
    """Everything that is true at the bank on `day` (an ISO date)."""
    before, after = _worlds(config)
    return after if day >= config.shift_date else before


def shifted_facts(config: SupportConfig) -> tuple[Fact, ...]:
    """The facts that are true after the shift and were not before: changed values and new products."""
    before, after = _worlds(config)
    old = {fact.key: fact.value for fact in before.facts}
    return tuple(fact for fact in after.facts if old.get(fact.key) != fact.value)


def absent_facts(world: World) -> tuple[Fact, ...]:
    """What a product of `world` does not have: the right answer to a question about it is the refusal."""
    return tuple(
        Fact(product, attribute, REFUSAL) for product in world.products for attribute in ATTRIBUTES if not _has(world, product, attribute)
    )


def product_articles(config: SupportConfig, day: str) -> tuple[Article, ...]:
    """One article per product, its facts each in a sentence of its own: one article is one passage of about 100 tokens."""
    world = bank(config, day)
    articles = []
    for product in world.products:
        r = config.random("article", product)
        sentences = tuple(fact.state(r, canonical=True) for fact in world.about(product))
        articles.append(Article(slug(product), product, (" ".join(sentences),)))
    return tuple(articles)


def guide_articles(config: SupportConfig) -> tuple[Article, ...]:
    """Procedures without product facts, one per topic."""
    return tuple(Article(f"guide-{slug(topic)}", topic, guide_paragraphs(config.random("guide", topic), topic, 3)) for topic in TOPICS)


def articles_of(config: SupportConfig, day: str) -> tuple[Article, ...]:
    """What the editors publish on `day`: all on the first, what is new or changed on the shift, else a few reissues."""
    products, guides = product_articles(config, day), guide_articles(config)
    if config.number(day) == 1:
        return products + guides
    if day == config.shift_date:
        news = {slug(fact.product) for fact in shifted_facts(config)}
        return tuple(article for article in products if article.slug in news)
    r = config.random("reissue", day)
    return tuple(r.sample(products, min(2, len(products)))) + tuple(r.sample(guides, 1))


@lru_cache(maxsize=8)
def _worlds(config: SupportConfig) -> tuple[World, World]:
    r = config.random("world")
    brands = r.sample([brand for brand in BRANDS if brand not in _GIVEN_NAMES], config.products + config.new_products)
    kinds = r.sample(PRODUCT_TYPES, config.products)
    new = [f"{brand} {kind}" for brand, kind in zip(brands[config.products :], _NEW_PRODUCT_TYPES, strict=False)]
    before = build_world([f"{brand} {kind}" for brand, kind in zip(brands, kinds, strict=False)], config.facts_per_product, r)
    return before, before.shifted(r, changed=config.changed, new_products=new, facts_each=config.facts_per_product)


def _has(world: World, product: str, attribute: Attribute) -> bool:
    return any(fact.attribute.names == attribute.names for fact in world.about(product))
