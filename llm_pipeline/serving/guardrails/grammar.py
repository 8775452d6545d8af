"""Sentences from forms: `{slot}` stands for one line of a slot, `[a|b|]` for one of its parts; what has no `|` is text."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llm_pipeline.config import load_yaml
from llm_pipeline.errors import ConfigError, near

_SLOT = re.compile(r"\{([a-zA-Z_]\w*)\}")
_CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
_DEEPEST = 40


@dataclass(frozen=True)
class Grammar:
    """The slots and families (named lists of forms) of a file."""

    slots: dict[str, list[str]]
    families: Mapping[str, list[str]]

    def fill(self, form: str, chance: random.Random) -> str:
        """One sentence of a form."""
        for _ in range(_DEEPEST):
            filled = _CHOICE.sub(lambda found: chance.choice(found[1].split("|")), form)
            filled = _SLOT.sub(lambda found: chance.choice(self._slot(found[1])), filled, count=1)
            if filled == form:
                return re.sub(r"[ ]{2,}", " ", re.sub(r" +([.,;:?!])", r"\1", form)).strip()
            form = filled
        raise ConfigError(f"the form {form[:80]!r} never ends")

    def one(self, family: str, chance: random.Random) -> str:
        """One sentence of a family."""
        return self.fill(chance.choice(self.families[family]), chance)

    def _slot(self, name: str) -> list[str]:
        if name not in self.slots:
            raise ConfigError(f"unknown slot {name!r}{near(name, self.slots)}")
        return self.slots[name]


def load_grammar(path: Path, *others: Path) -> Grammar:
    """The grammar of a file, which may use the slots of others."""
    slots: dict[str, list[str]] = {}
    families: dict[str, list[str]] = {}
    for source in (*others, path):
        raw = load_yaml(source)
        own = {"sentences", "orders", "bare"} & raw.keys()
        families = {name: _lines(text) for name, text in {**raw.get("families", {}), **{name: raw[name] for name in own}}.items()}
        slots |= {name: _lines(text) for part in ("slots", "slots_more") for name, text in raw.get(part, {}).items()}
        slots |= {"bare": families["bare"]} if "bare" in families else {}
    return Grammar(slots, families)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
