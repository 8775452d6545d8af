"""What two questions must share word for word before one's answer may serve the other: embeddings hardly see any of it.

"fee in 2024" and "fee in 2025", "with" and "without", Visa and Maestro, deposit and withdraw are near neighbours in any embedding.
"""

from __future__ import annotations

import re
import unicodedata

_NUMBER = re.compile(r"[$€£¥₹]?\d+(?:[.,:/\-]\d+)*\s?[%€£$°]?")
_WORD = re.compile(r"[^\W\d_](?:[\w'’&+./-]*\w)?[+#]*|\w*\d\w*")
_QUOTED = re.compile(r"[\"“”«»`]([^\"“”«»`]{1,200})[\"“”«»`]")
_SENTENCE = re.compile(r"(?:^|[.!?:\n]\s+|[\"“(]\s*|^\W+)$")
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBERS = {word: str(i) for i, word in enumerate(_UNITS)} | {
    "dozen": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "thousand": "1000", "million": "1000000",
    "second": "2.", "third": "3.", "fourth": "4.", "fifth": "5.", "once": "1x", "twice": "2x", "half": "1/2", "double": "2x", "both": "2",
}  # fmt: skip
_NEGATIONS = frozenset("not no never none nothing nobody nowhere neither nor without cannot unable except unless hardly".split())
_FIXED = frozenset(
    "january february march april june july august september october november december monday tuesday wednesday thursday friday "
    "saturday sunday today tomorrow yesterday weekday weekend daily weekly monthly quarterly yearly annual annually hourly "
    "morning evening night".split()
)
_OPPOSITES = """
open close|opened closed|increase decrease|raise lower|down|off|out|buy sell|before after|enable disable|activate deactivate
|send receive|sent received|sending receiving|deposit withdraw|deposits withdrawals|withdrawal|credit debit|import export|incoming outgoing
|add remove|start stop|begin end|allow block|allowed blocked|lock unlock|freeze unfreeze|old new|first last|min max|minimum maximum
|more less|most least|higher lower|highest lowest|cheapest dearest|lost found|domestic international|personal business|physical virtual
|single joint|with without|join leave|upload download|encrypt decrypt|install uninstall|accept reject|accepted declined|approve deny
|earliest latest|early late|push pull|read write|public private|north south|east west|before since|inside outside|above below
|include exclude|including excluding|legal illegal|safe unsafe|possible impossible|men women|male female|adult child|buyer seller
|pros cons|advantages disadvantages|benefits risks|cause prevent|gain lose|profit loss|win lose|free paid|online offline|temporary permanent
|short long|borrow lend|sender recipient|employer employee|landlord tenant|who when|where why|how much|how many|how long
"""
_OPPOSED = frozenset(word for pair in _OPPOSITES.replace("\n", "").split("|") for word in pair.split()) - frozenset("how much many".split())


_PLAIN = frozenset(
    "a about after all also am an and another any are as at be because been but by can cannot check could dear did do does doing else "
    "explain find for from get give good got great had has have having he hello help here hey hi how i if in is it its just let like "
    "look make may me might mine more must my need now of oh on one or our ours out over pardon please quick regarding say she should "
    "show since so sorry still tell than thank thanks that the their them then there these they this those thus to today too try us use "
    "very want was we well were what when where which while who whom whose why will with would yes yet you your yours".split()
)
"""Words that are no name although a capital begins them."""


def facts(text: str) -> tuple[str, ...]:
    """The numbers, dates, names, quotations, negation and words with an opposite, sorted; equal for questions that may share an answer."""
    plain = unicodedata.normalize("NFKC", text)
    found = [_number(match[0]) for match in _NUMBER.finditer(plain)]
    found += [f'"{" ".join(quoted.split()).casefold()}"' for quoted in _QUOTED.findall(plain)]
    negated = False
    for match in _WORD.finditer(plain):
        word = match[0].replace("’", "'")
        lower = word.casefold().removesuffix("'s")
        if lower in _NEGATIONS or lower.endswith("n't"):
            negated = True
        if lower in _NUMBERS:
            found.append(_NUMBERS[lower])
        elif lower in _FIXED or lower in _OPPOSED or _named(word, plain[: match.start()]):
            found.append(lower)
    return tuple(sorted({*found, *(["not"] if negated else [])}))


def _number(text: str) -> str:
    """Thousands separators and spaces do not count: "$1,000" is "$1000"."""
    return re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text).replace(" ", "")


def _named(word: str, before: str) -> bool:
    """Whether a word looks like a name or code: capital letters where a sentence does not ask for them, or letters beside digits."""
    if any(c.isdigit() for c in word) and any(c.isalpha() for c in word):
        return True
    capitals = sum(c.isupper() for c in word)
    if capitals == 0 or word.casefold().partition("'")[0] in _PLAIN or word == "OK":
        return False
    return capitals > 1 or not word[0].isupper() or _SENTENCE.search(before) is None
