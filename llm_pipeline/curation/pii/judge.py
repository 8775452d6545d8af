"""Whether a capitalised word is a person's name, by lists of names, of common words and of places, and the domain's own words."""

from __future__ import annotations

import re

from llm_pipeline.curation.pii.gazetteer import SYLLABLES, brands, common_words, place_words, usual_first_names

UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĢĪİĶĹĽŁŃŇŌŐŘŚŞŠŢŤŪŮŰŹŻŽȘȚ"
NAME = rf"(?:[dl]['’](?=[{UPPER}]))?[{UPPER}]\w*(?:['’-]\w+)*"
PARTICLES = frozenset("van von de da di del della dos do der den la le el bin ibn al ter ten zu af av du las los ben ap".split())
PARTICLE = r"(?:van|von|de|da|di|del|della|dos|do|der|den|la|le|el|bin|ibn|al|ter|ten|zu|af|av|du|las|los|ben|ap|Mc|O')"


TITLES = (
    "Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Madam|Lord|Lady|Herrn?|Frau|Madame|Monsieur|Mme|Mlle|Señor|Señora|Señorita|Sr|Sra|Srta|Dña"
    "|Sig|Signora|Signor|Dott|Dott\\.ssa|Dhr|Mevr|Mevrouw|Meneer|Rev|Nurse|Officer|Sgt|Sergeant|Detective|Inspector|Constable|Capt|Lt|Herra|Rouva|Pani"
    "|Senhor|Senhora|Doña|señora?|señorita|signora?|doña|mevrouw|meneer|monsieur|madame|Maître|Docteur|MR|MRS|MS|DR|mr|mrs|ms|dr|sig"
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def _last(value: str) -> str:
    """The last word, or where a sign ("×") is none, that."""
    return str((_WORD.findall(value) or [value])[-1])


class Judge:
    """Tells a name from other capitalised words with lists of names, of common words and of places, and the domain's own words."""

    def __init__(self, first: frozenset[str], last: frozenset[str], never: frozenset[str]) -> None:
        self.never, self.common, self.places = never, common_words() | never, place_words()
        self.first = (first - self.common) | (usual_first_names() & first - never)
        self.last = last - self.common
        self.also_last = frozenset(word for word in last - never if len(word) > 2 or word not in self.common)
        self.listed = self.first | self.also_last

    def is_first(self, word: str) -> bool:
        lower = word.lower()
        if lower in self.first or "-" not in lower:
            return lower in self.first
        parts = lower.split("-")
        return parts[0] in self.first or SYLLABLES.issuperset(parts)

    def is_last(self, word: str) -> bool:
        return word.lower() in self.last or ("-" in word and any(part.lower() in self.last for part in word.split("-")))

    def is_alone(self, word: str) -> bool:
        """A first name that is hardly anything else."""
        lower = word.lower()
        return len(word) > 2 and not word.isupper() and self.is_first(word) and lower not in self.common and lower not in self.places

    def may_be_last(self, word: str) -> bool:
        """A word nobody lists, but that may be a last name: capitalised, no common word, no place, no acronym."""
        lower = word.lower()
        if word.isalpha():
            return len(word) > 2 and not word.isupper() and lower not in self.common and lower not in self.places
        parts = re.split("['’-]", word)
        return all(part.isalpha() and (len(part) == 1 or not part.isupper()) for part in parts) and self.common.isdisjoint(lower.split("-"))

    def holds_name(self, value: str) -> bool:
        return "." in value or "-" in value or not self.listed.isdisjoint(value.lower().replace("'s", "").replace("’s", "").split(" "))

    def holds_first(self, value: str) -> bool:
        return any(map(self.is_first, _WORD.findall(value.replace("'s", "").replace("’s", ""))))

    def ends_in_first(self, value: str) -> bool:
        word = _last(value)
        return self.is_first(word) or (word[0].isupper() and word.lower() in self.also_last)

    def ends_in_any(self, value: str) -> bool:
        """Whether the last word may be the first one of a name."""
        word = _last(value)
        return word[0] > "\u036f" or self.is_first(word) or self.may_be_last(word) or word.lower() in self.also_last

    def spoken(self, word: str) -> str:
        """A word of a name in capitals as it is usually written."""
        return word.lower() if word.lower() in PARTICLES else word.title()

    def is_brand(self, value: str) -> bool:
        """Whether a name became that of a drink, a firm or a thing."""
        words = value.lower().replace(".", "").replace("-", " ").split(" ")
        return " ".join(words[:2]) in brands() or " ".join(words[-2:]) in brands()

    def in_brand(self, text: str, start: int, end: int) -> bool:
        """Whether text[start:end] is a brand with the word before ("Ben & Jerry"), or alone."""
        before = re.findall(r"[\w'’]+", text[max(0, start - 24) : start])[-1:]
        return self.is_brand(" ".join([*before, text[start:end]]))

    def no_common(self, value: str) -> bool:
        """Whether each word of a cell may be a name."""
        return all(word in self.listed or word not in self.common for word in value.lower().replace(",", "").split(" "))
