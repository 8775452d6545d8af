"""Street addresses as English, German, Dutch, Scandinavian, French, Spanish, Portuguese, Italian and Polish write them, and boxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from llm_pipeline.curation.pii.gazetteer import names, street_prefixes, street_suffixes
from llm_pipeline.curation.pii.windows import Finder, Found, cased

_UP = "[A-ZÀ-ÖØ-ÞŁŚŻŹĆ]"
_CITY = rf"(?:St\. )?{_UP}[\w'’]+(?:[ -](?:{_UP}[\w'’]+|am|an|der|de|la|upon|on|sur|del|di|in|do)){{0,3}}(?: \([A-Z]{{2}}\))?"
_CODE = (
    r"(?:[A-Z]{2,3},?\s+[0-9]{4,5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2}|(?:[A-Z]{2},? )?[A-Z][0-9][A-Z] ?[0-9][A-Z][0-9]"
    r"|[A-Z][0-9][0-9W] ?[A-Z0-9]{4}|[0-9]{4} ?[A-Z]{2}|[0-9]{5}(?:-[0-9]{3,4})?|[0-9]{2}-[0-9]{3}|[0-9]{3} [0-9]{2}|"
    r"[0-9]{4}-[0-9]{3}|(?!(?:19|20)[0-9]{2})[0-9]{4})(?![\w/])"
)
_TAIL = (
    rf"(?:(?:,\s*|\s+|\n)(?!\s*(?:Phone|Tel|Fax|Mobile|Cell)\b)(?:{_CITY},?\s+){{0,2}}{_CODE}|"
    rf"(?:,\s*{_CITY}){{1,3}},?\s+{_CODE})(?:,?\s{_CITY}(?![\w]))?"
)
_TOWN = rf"(?:,\s{_CITY}(?=[.,;\n]|$))?"
_FLAT = r"(?:(?:Flat|Apt\.?|Apartment|Unit|Suite|Studio|Ste\.?|Floor|Level|#|No\.) ?[0-9]{1,5}[A-Za-z]?|(?:Flat|Apt\.?|Unit|Suite) [A-Z])"
_NUMBER = r"[0-9]{1,6}[A-Za-z]?(?:[-/][0-9]{1,5}[A-Za-z]?)?"
_STRONG = frozenset(
    "street avenue road lane drive court boulevard close terrace square crescent st ave rd ln dr ct blvd mews parkway "
    "highway cir pkwy hwy".split()
)
_ABBREVIATED = (
    "St|Ave|Rd|Ln|Dr|Ct|Blvd|Pl|Cir|Ter|Way|Pkwy|Hwy|Trl|Sq|Street|Avenue|Road|Lane|Drive|Court|Place|Terrace|Close|Boulevard|Parkway|"
    "Highway|Circle|Trail|Loop|Square|Crescent"
)
"""What ends a street's name also behind another suffix: "Willow Creek Pl"."""
_WHOLE = (
    r"(?:El |La |Via |Las |Los )?(?:Camino Real|Alameda|Embarcadero|Rambla|Olas)|(?:West |East |North |South |Upper |Lower )?Broadway"
    r"|Kingsway|Queensway|Piccadilly|Whitehall|Bowery|Esplanade|Cheapside|Haymarket|Broadwalk|Highfield|Kingsland|Strand|Promenade"
)
"""Streets whose name is no name and a suffix."""
_YEAR = re.compile("(?:19|20)[0-9]{2}[ -]")
_LIVING = re.compile(
    r"\b(?:address|live|lives|living|lived|moved|moving|move|reside|resides|deliver|delivered"
    r"|send|sent|ship|shipped|shipping|mail|mailed|post|located|house|home is|arrived at|left at|went to|goes? to|going to|came to|come to"
    r"|delivery|delivering|drop(?:ped)? (?:it |them )?(?:off )?at|over at|based at|residing|residence|resident|apartment"
    r"|premises|parcel|package|courier|pick(?:ed)? up (?:at|from)|office at|tenancy|rent(?:ed|ing|s)?)\b",
    re.I,
)
_JOINED = (
    "straße|strasse|str[.]|damm|weg|platz|allee|gasse|ufer|steeg|straat|laan|gracht|kade|dijk|singel|plein|dreef"
    "|gatan|vägen|veien|vejen|gade|katu"
)
_JOINED_WEAK = "hof|baan|gata|tie|ring|pad"
_APART = "Straße|Str[.]|Weg|Platz|Allee|Gasse|Ring"
_GERMAN = "Am|Im|Zum|Zur|An der|An den|An dem|Auf der|Auf dem|In der|In den|Unter den|Hinter der|Vor dem|Alte|Alter|Altes"
_POST_BOX = re.compile(
    rf"\b(?:(?:[Pp]\.? ?[Oo]\.?|Post Office|POST OFFICE|post office) (?:Box|BOX|box)|{cased('postfach|apartado|postbus')}) [0-9]{{1,6}}\b"
)
_FRENCH = cased("rue|avenue|boulevard|chemin|place|allée|impasse|quai")


_ENGLISH = (
    rf"[0-9][A-Za-z]?(?:[-/][0-9]{{1,5}}[A-Za-z]?)?,?[ ](?:[NSEW][.]? )?(?:{_UP}|[0-9]{{1,3}}(?:st|nd|rd|th))",
    "(?:Flat|Apt[.]?|Apartment|Unit|Suite|Studio|Ste[.]?|Floor|Level|No[.]|#) ?[0-9]|(?:Flat|Apt[.]?|Unit|Suite) [A-Z]",
)
"""A number before a name, and flats."""


def place_finders(locales: Sequence[str]) -> list[Finder]:
    suffix = "|".join(street_suffixes())
    romance = "|".join(re.escape(word) for word in street_prefixes())
    english = re.compile(
        rf"(?<![\w.$€£-])(?!(?:1[5-9]|20)[0-9][0-9](?:-(?:19|"
        rf"20)?[0-9][0-9])?,)(?:(?P<lead>{_FLAT},?\s+)(?:{_NUMBER},? )?|{_NUMBER}(?P<comma>,)? )"
        rf"(?:(?:[NSEW]|North|South|East|"
        rf"West)\.? )?"
        rf"(?:(?P<whole>(?:{_WHOLE})\b(?! [a-z]))|(?P<name>(?:{_UP}[\w'’-]+ |[0-9]{{1,3}}(?:st|nd|rd|"
        rf"th) ){{1,4}}?)(?P<suffix>(?i:{suffix}))\b)\.?(?! (?:{_ABBREVIATED})\b)(?: (?:NW|NE|SW|SE|[NSEW])\b)?"
        rf"(?P<flat>,?\s{_FLAT}\b)?(?P<tail>{_TAIL})?"
    )
    floor = r"[0-9]{1,2}[ºª°](?: ?(?:[A-Z]\b|dcha\.?|izda\.?|izq\.?|ctro\.?))?"
    post = rf"(?:,? (?:(?:Apt\.|Piso|Puerta|Local|Bajo|Piano|Appartamento|Esc\.|bus|/) ?[0-9A-Z]*\b|{floor})){{0,2}}(?:{_TAIL}|{_TOWN})"
    house = r" [0-9]{1,4}(?: ?[a-z]\b|[A-Z]|[/-][0-9]+)?(?!\w|\.[0-9])"
    joined = re.compile(
        rf"(?<![\w-]){_UP}[\w.-]*(?:(?:{_JOINED}|(?:-| )(?:{_APART})){house}{post}|(?P<weak>{_JOINED_WEAK}){house}(?P<tail>{post}))"
    )
    german = re.compile(rf"(?<![\w-])(?:{_GERMAN}) {_UP}\w+(?:[ -]{_UP}\w+){{0,2}}{house},\s[0-9]{{5}} {_CITY}")
    french = re.compile(
        rf"(?<![\w.$-])[0-9]{{1,4}}(?: bis| ter)?,? (?:{_FRENCH}) "
        rf"(?:(?:de la|de l'|de|du|des|d'|l'|la|le) ?)?{_UP}[\w'’-]+(?:[ -]{_UP}[\w'’-]+){{0,3}}{post}"
    )
    unnumbered = re.compile(rf"(?<!\w)(?:{_FRENCH}) (?:(?:de la|de|du|des|la|le) )?{_CITY},?\s[0-9]{{5}} {_CITY}")
    military = re.compile(rf"(?:(?:{_CITY}|PSC [0-9]+|Unit [0-9]+)(?:,? Box [0-9]+)?,? )?\b[AFD]PO A[AEP] [0-9]{{5}}(?:-[0-9]{{4}})?\b")
    southern = re.compile(
        rf"(?<!\w)(?:{romance}|(?P<weak>C\.|R\.)) "
        rf"(?:(?:de la|de los|de|del|della|di|da|do|dos) )?{_UP}[\w'’.-]+(?: [\w'’.-]+){{0,4}}?,? (?:nº ?|n\. "
        rf"?)?[0-9]{{1,4}}\b(?P<tail>{post})"
    )
    polish = re.compile(rf"(?<!\w)(?:ul\.|ulica|aleja|al\.|pl\.) {_UP}\w+(?: {_UP}\w+)? [0-9]{{1,4}}[A-Za-z]?(?:/[0-9]+)?{post}")
    return [
        *(Finder(anchor, _english(english, locales), before=48, after=190) for anchor in _ENGLISH),
        _finder(rf"[0-9](?: bis| ter)?,? (?:{_FRENCH}) ", ("street_fr", french, 0.88)),
        _finder(
            rf"(?:{_JOINED}|{_JOINED_WEAK}|{_APART}|{cased('box|fach|tado|bus')}) [0-9]|PO A[AEP] [0-9]{{5}}",
            ("street_joined", joined, 0.85),
            ("military", military, 0.85),
            ("post_box", _POST_BOX, 0.8),
        ),
        _finder(
            rf"(?:{_GERMAN}|ul[.]|ulica|aleja|al[.]|pl[.]) {_UP}|(?:{_FRENCH}) (?:de |du |des |la |le ){{0,2}}{_UP}",
            ("street_de", german, 0.85),
            ("street_fr_post", unnumbered, 0.87),
            ("street_pl", polish, 0.85),
        ),
        _finder(
            f"(?:{romance}|[CR][.]) (?:(?:de la|de los|de|del|della|di|da|do|dos) )?{_UP}",
            ("street_south", southern, 0.85),
        ),
    ]


def _finder(anchor: str, *kinds: tuple[str, re.Pattern[str], float]) -> Finder:
    """A finder for kinds of places (name, pattern, score) that share an anchor."""

    def find(text: str, low: int, high: int) -> Iterator[Found]:
        for name, pattern, score in kinds:
            for match in pattern.finditer(text, low, high):
                groups = match.groupdict()
                if groups.get("tail") or not groups.get("weak") or _LIVING.search(text, max(0, match.start() - 60), match.start()):
                    yield match.start(), match.end(), score, "STREET_ADDRESS", name

    return Finder(anchor, find, before=112, after=190)


def _english(pattern: re.Pattern[str], locales: Sequence[str]) -> Callable[[str, int, int], Iterator[Found]]:
    """A common suffix (Street) counts alone; a rare one (Spurs) with a flat, a postcode, a person's name, or words of living before it."""
    listed = frozenset.union(*names(tuple(locales)))

    def find(text: str, low: int, high: int) -> Iterator[Found]:
        for match in pattern.finditer(text, low, high):
            if match["whole"] or match["suffix"].lower().rstrip(".") in _STRONG or match["lead"] or match["flat"] or match["tail"]:
                yield match.start(), match.end(), 0.9, "STREET_ADDRESS", "street"
            elif _YEAR.match(match.group()):
                continue
            elif _LIVING.search(text, max(0, match.start() - 60), match.start()) or (
                not match["comma"] and match["name"].strip().lower() in listed
            ):
                yield match.start(), match.end(), 0.87, "STREET_ADDRESS", "street"

    return find
