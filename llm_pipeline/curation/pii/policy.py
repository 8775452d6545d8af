"""What happens to each kind of personal data; shipped as `data/policies/pii.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from llm_pipeline.config import load
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.paths import DATA
from llm_pipeline.store import content_hash

_ENTITIES = (
    "EMAIL_ADDRESS PHONE_NUMBER CREDIT_CARD IBAN_CODE BANK_ACCOUNT US_SSN US_ITIN DRIVER_LICENCE UK_NINO UK_NHS PASSPORT NATIONAL_ID "
    "IP_ADDRESS MAC_ADDRESS URL_CREDENTIALS CRYPTO API_KEY DATE_OF_BIRTH STREET_ADDRESS PERSON ORGANISATION"
)
ENTITIES = tuple(_ENTITIES.split())
Mode = Literal["placeholder", "pseudonym", "mask", "drop", "keep"]


@dataclass(frozen=True)
class PiiPolicy:
    """`placeholder` writes `[PERSON]`, `pseudonym` `[PERSON_3f9a...]`, `mask` `*` for each letter, `drop` nothing; `keep` doesn't look."""

    default: Mode = "placeholder"
    modes: Mapping[str, Mode] = field(default_factory=dict)
    """Entity type to mode, where it differs from the default."""
    pseudonym_scope: Literal["corpus", "document"] = "corpus"
    """Where the same value has the same pseudonym; the key is $LLM_PIPELINE_PSEUDONYM_KEY."""
    ner: str = ""
    """Path (or cached hub name) of a transformers token-classification model that looks for names too; empty for none."""
    minimum_score: float = 0.5
    """Spans below are left alone; a checksum gives 1, a shape with context about 0.8, a shape alone 0.5 to 0.7."""
    phone_regions: tuple[str, ...] = ("US", "GB")
    """Countries whose national phone numbers (without +) count."""
    name_locales: tuple[str, ...] = ("en_US", "en_GB")
    """Faker locales whose name lists make up the gazetteer."""
    never_names: tuple[str, ...] = ()
    """Capitalised words of the domain that are no part of a person's name."""
    allow: tuple[str, ...] = ()
    """Exact texts that are public, such as the company's own hotline."""

    def __post_init__(self) -> None:
        for entity in self.modes:
            if entity not in ENTITIES:
                raise ConfigError(f"PII policy: unknown entity {entity!r}{near(entity, ENTITIES)}")

    @property
    def id(self) -> str:
        return content_hash(asdict(self))

    def mode(self, entity: str) -> Mode:
        return self.modes.get(entity, self.default)


def load_policy(path: Path = DATA / "policies" / "pii.yaml") -> PiiPolicy:
    return load(PiiPolicy, path)
