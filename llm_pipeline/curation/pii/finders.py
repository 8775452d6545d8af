"""All finders that a policy asks for."""

from __future__ import annotations

from functools import lru_cache

from llm_pipeline.curation.pii.birth import birth_finder
from llm_pipeline.curation.pii.identifiers import identifier_finders
from llm_pipeline.curation.pii.people import people_finders
from llm_pipeline.curation.pii.places import place_finders
from llm_pipeline.curation.pii.policy import PiiPolicy
from llm_pipeline.curation.pii.shapes import shape_finders
from llm_pipeline.curation.pii.telephone import phone_finder
from llm_pipeline.curation.pii.windows import Finder


def finders(policy: PiiPolicy) -> list[Finder]:
    return _finders(policy.phone_regions, policy.name_locales, policy.never_names)


@lru_cache(maxsize=8)
def _finders(phone_regions: tuple[str, ...], name_locales: tuple[str, ...], never_names: tuple[str, ...]) -> list[Finder]:
    return [
        *shape_finders(),
        *identifier_finders(),
        phone_finder(phone_regions),
        birth_finder(),
        *place_finders(name_locales),
        *people_finders(name_locales, never_names),
    ]
