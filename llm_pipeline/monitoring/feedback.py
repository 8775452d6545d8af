"""What users said about answers, joined to the interactions by id: one opinion per interaction, whoever said how often what."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

_WORDS = {"up": 1.0, "down": -1.0}


@dataclass(frozen=True)
class Opinion:
    """What is thought of one answer."""

    rating: float | None = None
    """From -1 to 1, the mean over those who rated."""
    comment: str = ""
    correction: str = ""


def read_opinions(folder: Path) -> dict[str, Opinion]:
    """Interaction id -> opinion, of the gateway's feedback segments.

    The same key's later feedback on an interaction takes the place of its earlier one, as far as it says something; of several keys
    ratings are averaged, comments joined, and the last correction counts. Lines that are no feedback (torn by a kill) are passed over.
    """
    by_key: dict[str, dict[str, Opinion]] = defaultdict(dict)
    for row in sorted(_rows(folder), key=lambda row: str(row.get("received_at", ""))):
        opinions, key = by_key[row["interaction_id"]], str(row.get("key", ""))
        said: dict[str, Any] = {"rating": _rating(row.get("rating")), "comment": row.get("comment"), "correction": row.get("correction")}
        opinions[key] = replace(opinions.pop(key, Opinion()), **{name: value for name, value in said.items() if value not in (None, "")})
    return {identity: _joined(list(opinions.values())) for identity, opinions in by_key.items()}


def _joined(opinions: list[Opinion]) -> Opinion:
    ratings = [opinion.rating for opinion in opinions if opinion.rating is not None]
    corrections = [opinion.correction for opinion in opinions if opinion.correction]
    return Opinion(
        sum(ratings) / len(ratings) if ratings else None,
        "\n".join(opinion.comment for opinion in opinions if opinion.comment),
        corrections[-1] if corrections else "",
    )


def _rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("interaction_id"), str):
                yield row


def _rating(value: Any) -> float | None:
    """Also as older gateways wrote it: up or down."""
    if isinstance(value, str):
        return _WORDS.get(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
