"""Street addresses of English-speaking, German, French, Spanish and Italian form, and post office boxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from llm_pipeline.curation.pii.gazetteer import street_prefixes, street_suffixes

Found = tuple[int, int, float]
AddressRule = tuple[str, tuple[str, ...], Callable[[str], Iterator[Found]]]
_CITY = r"(?:St\. )?[A-ZÀ-Þ][\w'’-]+(?:[ -](?:[A-ZÀ-Þ][\w'’-]+|am|an|der|de|la|upon|on|sur)){0,3}"
_UK = r"[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2}\b"
_TAIL = (
    rf"(?:(?:,\s*|\s+)(?:{_CITY},?\s+)?(?:[A-Z]{{2}},?\s+[0-9]{{5}}(?:-[0-9]{{4}})?\b|{_UK}|[0-9]{{5}}\b)"
    rf"|(?:,\s*{_CITY}){{1,2}},?\s+(?:{_UK}|[A-Z]{{2}}\s[0-9]{{5}}(?:-[0-9]{{4}})?\b))"
)
_FLAT = r"(?:Flat|Apt\.?|Apartment|Unit|Suite|Studio|Ste\.?|#|No\.) ?[0-9]{1,5}[A-Za-z]?"
_NUMBER = r"[0-9]{1,6}[A-Za-z]?(?:[-/][0-9]{1,4})?"
_STRONG = "street avenue road lane drive court boulevard close terrace square crescent st ave rd ln blvd mews"
_LIVING = re.compile(
    r"\b(?:address|live|lives|living|lived|moved|moving|move|reside|resides|deliver|delivered"
    r"|send|sent|ship|mail|mailed|post|located|house|home is)\b",
    re.I,
)


def address_rules() -> list[AddressRule]:
    suffix = "|".join(street_suffixes())
    romance = "|".join(re.escape(word) for word in street_prefixes())
    english = re.compile(
        rf"(?<![\w.$€£-])(?:{_FLAT},?\s+(?:{_NUMBER},? )?|{_NUMBER},? )(?:(?:[NSEW]|North|South|East|West)\.? )?"
        rf"(?:[A-Z][\w'’-]+ ){{1,4}}?(?P<suffix>(?i:{suffix}))\b\.?(?P<flat>,?\s{_FLAT}\b)?(?P<tail>{_TAIL})?"
    )
    post = rf"(?:,? (?:Apt\.|Piso|Puerta|Local|Bajo) ?[0-9A-Z]*\b)?(?:(?: ?,\s*{_CITY})?,?\s+[0-9]{{5}}\b(?: {_CITY})?)?"
    german = re.compile(
        rf"(?<![\w-])[A-ZÄÖÜ][\wäöüß.-]*(?:straße|strasse|str\.|weg|platz|allee|gasse|ring|damm|ufer"
        rf"|(?:-| )(?:Straße|Str\.|Weg|Platz|Allee|Gasse|Ring)) "
        rf"[0-9]{{1,4}}(?:[a-z]|[/-][0-9]+)?\b{post}"
    )
    french = re.compile(
        rf"(?<![\w.$-])[0-9]{{1,4}}(?: bis| ter)?,? (?i:rue|avenue|boulevard|chemin|place|allée|impasse|quai) "
        rf"(?:(?:de la|de l'|de|du|des|d'|l'|la|le) ?)?[A-ZÀ-Þ][\w'’-]+(?:[ -][A-ZÀ-Þ][\w'’-]+){{0,3}}{post}"
    )
    french_post = re.compile(
        rf"(?<!\w)(?:rue|avenue|boulevard|chemin|place|allée|impasse|quai) (?:(?:de la|de|du|des|la|le) )?{_CITY},? [0-9]{{5}} {_CITY}"
    )
    military = re.compile(rf"(?:{_CITY}(?:,? Box [0-9]+)?,? )?\b[AFD]PO A[AEP] [0-9]{{5}}(?:-[0-9]{{4}})?\b")
    southern = re.compile(
        rf"(?<!\w)(?:{romance}) "
        rf"(?:(?:de la|de los|de|del|della|di) )?[A-ZÀ-Þ][\w'’.-]+(?: [\w'’.-]+){{0,4}}?,? (?:nº ?|n\. ?)?[0-9]{{1,4}}\b{post}"
    )
    box = re.compile(r"\bP\.? ?O\.? Box [0-9]{1,6}\b", re.I)
    return [
        ("street", (r"[0-9][A-Za-z]?(?:[-/][0-9]{1,4})?,?\s[A-Z]",), lambda text: _english(english, text)),
        (
            "street_de",
            (r"(?:stra(?:ß|ss)e|str\.|weg|platz|allee|gasse|ring|damm|ufer|Stra(?:ß|ss)e|Str\.|Weg|Platz|Allee|Gasse|Ring) [0-9]",),
            lambda text: _all(german, text, 0.85),
        ),
        ("street_fr", (r"(?i)(?:rue|avenue|boulevard|chemin|place|allée|impasse|quai) ", "[0-9]"), lambda text: _all(french, text, 0.85)),
        (
            "street_fr_post",
            (r"rue|avenue|boulevard|chemin|place|allée|impasse|quai", "[0-9]{5}"),
            lambda text: _all(french_post, text, 0.8),
        ),
        ("military", (r"PO A[AEP] [0-9]{5}",), lambda text: _all(military, text, 0.85)),
        (
            "street_south",
            (f"(?:{romance}) ", "[0-9]"),
            lambda text: _all(southern, text, 0.85),
        ),
        ("post_box", (r"(?i)box [0-9]",), lambda text: _all(box, text, 0.8)),
    ]


def _all(pattern: re.Pattern[str], text: str, score: float) -> Iterator[Found]:
    for match in pattern.finditer(text):
        yield match.start(), match.end(), score


def _english(pattern: re.Pattern[str], text: str) -> Iterator[Found]:
    """A common suffix (Street) counts alone; a rare one (Spurs) with a flat, a postcode, or words of living near it."""
    for match in pattern.finditer(text):
        certain = match["suffix"].lower().rstrip(".") in _STRONG.split() or match["flat"] or match["tail"]
        if certain:
            yield match.start(), match.end(), 0.9
        elif _LIVING.search(text, max(0, match.start() - 60), match.start()):
            yield match.start(), match.end(), 0.8
