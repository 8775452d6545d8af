"""Names by a model: a transformers token-classification model that the policy names is one more finder, loaded when first used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from llm_pipeline.curation.pii.policy import ENTITIES
from llm_pipeline.curation.pii.pseudonyms import PLACEHOLDER
from llm_pipeline.curation.pii.windows import Found
from llm_pipeline.errors import ConfigError

_LABELS = {
    "PER": "PERSON",
    "PERSON": "PERSON",
    "NAME": "PERSON",
    "ORG": "ORGANISATION",
    "ORGANIZATION": "ORGANISATION",
    "STREET": "STREET_ADDRESS",
    "ADDRESS": "STREET_ADDRESS",
    **{entity: entity for entity in ENTITIES},
}
"""A model's labels (CoNLL-2003, OntoNotes, or our own) and our types; others (LOC, MISC) are not personal data."""
_OVERLAP = 16
"""Tokens that two chunks of a long text share, so that no name falls between."""


def model_hits(model: str, texts: Sequence[str]) -> Iterator[tuple[int, Found]]:
    """(text number, hit) of what the model at a local path (or of a cached hub name) finds; its confidence is the score."""
    tagger = _tagger(model)
    for i, text in enumerate(texts):
        replaced = [match.span() for match in PLACEHOLDER.finditer(text)]
        for found in tagger(text) if text.strip() else ():
            start, end, entity = int(found["start"]), int(found["end"]), _LABELS.get(str(found["entity_group"]).upper())
            untouched = all(end <= low or start >= high for low, high in replaced)
            if entity and untouched and any(c.isalnum() for c in text[start:end]):
                yield i, (start, end, float(found["score"]), entity, "ner")


@lru_cache(maxsize=2)
def _tagger(model: str) -> Any:
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network = AutoModelForTokenClassification.from_pretrained(model, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"PII policy: ner received {model!r}, expected a token-classification model with safetensors: {error}") from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, network.config.max_position_embeddings)
    return pipeline("token-classification", model=network, tokenizer=tokenizer, aggregation_strategy="simple", stride=_OVERLAP, device=-1)
