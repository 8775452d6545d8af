"""Which kinds of values a text may hold: one pass over it for all of them, where most texts end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from llm_pipeline.serving.guardrails.spans import KINDS, Kind
from llm_pipeline.sieve import Sieve

_NAMES = tuple(KINDS)
_ANY = r"\x80-\xff"
"""Bytes of other letters than ASCII's, of which a sieve does not know what they are: to it they are whatever a pattern wants."""
_LOOKBEHIND = re.compile(r"\(\?<[=!](?:[^()\\]|\\.)*\)")
_FOREIGN = re.compile("[^\\x00-\\x7f](?:-[^\\x00-\\x7f])?")
_END = re.compile(r"(?<!\\)\$")
_WORD = re.compile(r"([a-z]+(\\b)?)\(\?<!\\w[^()]*\)")


def triggered(kinds: Sequence[tuple[str, Kind]], text: str) -> list[tuple[str, Kind]]:
    """Those of some (rule, kind) whose trigger stands in a `folded` text."""
    held = _sieve().held(text)
    if not held:
        return []
    names = [_NAMES[i] for i in held]
    return [(rule, kind) for rule, kind in kinds if kind.name in names and kind.trigger.search(text)]


@cache
def _sieve() -> Sieve:
    return Sieve([_loose(kind.trigger.pattern) for kind in KINDS.values()])


def _loose(pattern: str) -> str:
    """A pattern for a sieve that matches wherever `pattern` does, and seldom elsewhere."""
    pattern = _FOREIGN.sub(lambda _: _ANY, _LOOKBEHIND.sub("", _WORD.sub(r"\\b\1", pattern)))
    pattern = _END.sub(r"\\n?\\x00", pattern)
    return pattern.replace(r"[\w", rf"[\w{_ANY}").replace(r"\d", f"[0-9{_ANY}]").replace(r"\s", rf"[\s\x1c-\x1f{_ANY}]")
