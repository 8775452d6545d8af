"""First names, last names and street suffixes of many locales, from Faker's lists (no model, no network)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module

from llm_pipeline.errors import ConfigError

# English words that some locale has as a name: alone they prove nothing.
_WORDS = (
    "a an and as at be by can do for go he her his i if in is it may me my no of on or our she so the their this to up us was we will you "
    "april august bank best call card case cash chance dear hello hi good great day fee free home hope june joy law mark may new price "
    "rich rose sales sunny thanks thank van von young your street road avenue lane drive close court way"
)


@lru_cache(maxsize=8)
def names(locales: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Lower-case (first names, last names) of the Faker `locales`; names of several words give each long word."""
    first: set[str] = set()
    last: set[str] = set()
    for locale in locales:
        try:
            provider = import_module(f"faker.providers.person.{locale}").Provider
        except ModuleNotFoundError:
            raise ConfigError(f"name_locales: received {locale!r}, expected a locale of Faker such as 'en_US'") from None
        for attribute in dir(provider):
            if attribute.startswith("first_names"):
                first.update(_words(getattr(provider, attribute)))
            elif attribute.startswith("last_names"):
                last.update(_words(getattr(provider, attribute)))
    return frozenset(first.difference(_WORDS.split())), frozenset(last.difference(_WORDS.split()))


def _words(listed: object) -> set[str]:
    """Faker's lists are of names or of (name, weight) pairs."""
    found: set[str] = set()
    for item in listed if isinstance(listed, list | tuple | dict | set | frozenset) else ():
        name = item if isinstance(item, str) else item[0] if isinstance(item, tuple) and isinstance(item[0], str) else ""
        found.update(word.lower() for word in re.split(r"[\s-]+", name) if len(word) > 1)
    return found


@lru_cache(maxsize=1)
def street_suffixes() -> tuple[str, ...]:
    """Words that end an English street name, long ones first."""
    provider = import_module("faker.providers.address.en_US").Provider
    short = {"St", "Ave", "Rd", "Ln", "Dr", "Ct", "Blvd", "Pkwy", "Pl", "Sq", "Ter", "Hwy", "Cl", "Cres", "Boulevard", "Close", "Way"}
    return tuple(sorted({*provider.street_suffixes, *short}, key=lambda word: (-len(word), word)))


@lru_cache(maxsize=1)
def street_prefixes() -> tuple[str, ...]:
    """Words before the name of a Spanish or Italian street, long ones first."""
    spanish = import_module("faker.providers.address.es_ES").Provider.street_prefixes
    more = {"Calle", "C/", "Avenida", "Avda.", "Av.", "Carrer", "Via", "Viale", "Piazza", "Corso", "Vicolo", "Rua"}
    return tuple(sorted({*spanish, *more}, key=lambda word: (-len(word), word)))
