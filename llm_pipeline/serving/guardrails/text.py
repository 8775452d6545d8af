"""Text as rules read it: without hidden characters, and in one form of letters."""

from __future__ import annotations

import re
import unicodedata

from llm_pipeline.serving.guardrails.spans import HIDDEN

_HIDDEN = re.compile(f"[{HIDDEN}]")


def plain(text: str) -> str:
    """Compatibility normalisation (NFKC) without hidden characters; ASCII text is as it was."""
    return text if text.isascii() else unicodedata.normalize("NFKC", _HIDDEN.sub("", text))
