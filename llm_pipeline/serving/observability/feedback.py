"""What users say about answers: a rating, a comment, what should have been said; checked here, joined by id in monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_pipeline.errors import near
from llm_pipeline.serving.gateway.asgi import HttpError

FIELDS = ("interaction_id", "rating", "comment", "correction")
MOST_CHARACTERS = 8000
_WORDS = {"up": 1.0, "down": -1.0}


@dataclass(frozen=True)
class Feedback:
    """One opinion; a later one by the same key on the same interaction takes its place."""

    interaction_id: str
    rating: float | None = None
    """From -1 (down, or 1 of 5) to 1 (up, or 5 of 5)."""
    comment: str = ""
    correction: str = ""

    def row(self, key: str, received_at: str) -> dict[str, Any]:
        """What is logged."""
        return {**vars(self), "key": key, "received_at": received_at}


def parse_feedback(body: Any) -> Feedback:
    """Check a request body; raises `HttpError` 400 that names the field, what was received and what is expected."""
    if not isinstance(body, Mapping):
        raise HttpError(400, f"expected a JSON object, received {type(body).__name__}")
    if unknown := [str(name) for name in body if name not in FIELDS]:
        raise HttpError(400, f"unsupported field {unknown[0][:80]!r}{near(unknown[0], FIELDS)}", code="unsupported_field")
    identity = body.get("interaction_id")
    if not isinstance(identity, str) or not 1 <= len(identity) <= 200:
        raise HttpError(400, "interaction_id: expected the id of an answer, a text of 1 to 200 characters")
    texts = [_text(body, name) for name in ("comment", "correction")]
    rating = _rating(body.get("rating"))
    if rating is None and not any(texts):
        raise HttpError(400, "expected at least one of rating, comment and correction")
    return Feedback(_unicode(identity, "interaction_id"), rating, *texts)


def _rating(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 5:
        return (float(value) - 3) / 2
    raise HttpError(400, f"rating: received {str(value)[:40]!r}, expected 'up', 'down' or a number from 1 to 5")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MOST_CHARACTERS:
        raise HttpError(400, f"{name}: expected a text of at most {MOST_CHARACTERS} characters")
    return _unicode(value, name)


def _unicode(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise HttpError(400, f"{name}: not valid Unicode (an unpaired surrogate)") from None
    return value
