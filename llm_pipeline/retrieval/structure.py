"""Where the author cut: the parts of a text, coarse to fine, for prose and Markdown, HTML, Python and other code.

A splitter takes a span of the text and gives the spans it consists of; together they cover it. `LEVELS` lists for each format
the splitters from coarse (its parts never share a passage) to fine.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

Span = tuple[int, int]
Splitter = Callable[[str, int, int], list[Span]]

_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_HEADING = re.compile(r"#{1,6} \S")
_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|(?<=[。？！])|\n+")
_BLANK = re.compile(r"\n[ \t]*\n\s*")
_LINE = re.compile(r"\n")
_ANY_LINE = re.compile(r"\r\n|\r|\n")
_WORD = re.compile(r"\s+")
_ITEM = re.compile(r"(?<=\n)(?=[-*] )")
_TOP_LEVEL = re.compile(r"(?<=\n)(?=[^\s}\])])")
_TAGS = re.compile(r"</(?:p|div|h[1-6]|li|td|body|section|article|pre)\s*>", re.I)
_CODE = frozenset(".c .cc .cpp .cs .go .h .hpp .java .js .jsx .kt .php .rb .rs .scala .sh .sql .swift .ts .tsx".split())


def format_of(document: Mapping[str, Any]) -> str:
    """A key of `LEVELS` by the end of the uri; a page that is text already is prose."""
    end = re.search(r"\.\w+$", document["uri"].split("?")[0].split("#")[0])
    suffix = end.group().lower() if end else ""
    if suffix in (".html", ".htm") and _TAGS.search(document["text"]):
        return "html"
    return "python" if suffix in (".py", ".pyi") else "code" if suffix in _CODE else "prose"


def at(pattern: re.Pattern[str]) -> Splitter:
    """Split after each match of `pattern` (which stays with the part before it)."""

    def split(text: str, start: int, end: int) -> list[Span]:
        return _between(start, end, (match.end() for match in pattern.finditer(text, start, end)))

    return split


def sections(text: str, start: int, end: int) -> list[Span]:
    """From heading to heading of Markdown; headings in fenced code are none, and those that follow one another stay together."""
    cuts, fence, only_headings = [], "", True
    position = start
    for line in text[start:end].splitlines(keepends=True):
        mark = _FENCE.match(line)
        heading = not fence and _HEADING.match(line) is not None
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark.group(1)
        if heading and not only_headings:
            cuts.append(position)
            only_headings = True
        only_headings = only_headings and (heading or not line.strip())
        position += len(line)
    return _between(start, end, cuts)


def definitions(text: str, start: int, end: int) -> list[Span]:
    """Functions and classes of Python with their decorators and the comments above them; of one class, its members.

    A text that is no Python is one part.
    """
    source = text[start:end]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the author's string literals should have escaped
            body: Sequence[ast.stmt] = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [(start, end)]
    if len(body) == 1 and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    edges = [0, *(match.end() for match in _ANY_LINE.finditer(source)), len(source)]
    cuts = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
            while first and source[edges[first - 1] : edges[first]].lstrip().startswith("#"):
                first -= 1
            cuts += [start + edges[first], start + edges[node.end_lineno or node.lineno]]
    return _between(start, end, sorted(cuts))


def _between(start: int, end: int, cuts: Iterable[int]) -> list[Span]:
    """The spans between `start`, the cuts inside, and `end`; the blanks between two parts belong to the first."""
    edges = [start, *dict.fromkeys(cut for cut in cuts if start < cut < end), end]
    return list(pairwise(edges))


LEVELS: Mapping[str, tuple[Splitter, ...]] = {
    "prose": (sections, at(_BLANK), at(_ITEM), at(_SENTENCE), at(_WORD)),
    "python": (definitions, definitions, at(_BLANK), at(_LINE), at(_WORD)),
    "code": (at(_TOP_LEVEL), at(_BLANK), at(_LINE), at(_WORD)),
    "html": (sections, at(_BLANK), at(_ITEM), at(_SENTENCE), at(_WORD)),
    "sentences": (at(_SENTENCE), at(_WORD)),
}


class _Page(HTMLParser):
    """What a page shows, its headings, items and preformatted text marked as in Markdown."""

    SILENT = frozenset("script style template noscript head".split())
    BLOCKS = frozenset("p div section article main aside header footer nav table tr ul ol dl dt dd blockquote figure form br hr".split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = self._fixed = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in self.SILENT
        self._fixed += tag == "pre"
        if re.fullmatch("h[1-6]", tag):
            self.parts.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag == "pre":
            self.parts.append("\n\n```\n")
        elif tag == "li":
            self.parts.append("\n- ")
        elif tag in ("td", "th"):
            self.parts.append(" ")
        elif tag in self.BLOCKS:
            self.parts.append("\n" if tag in ("br", "tr") else "\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in self.SILENT))
        if tag == "pre" and self._fixed:
            self._fixed -= 1
            self.parts.append("\n```\n\n")
        elif re.fullmatch("h[1-6]", tag) or tag in self.BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data if self._fixed else re.sub(r"\s+", " ", data))


def html_text(page: str) -> str:
    """The words of a page as Markdown: headings, paragraphs, items, preformatted text."""
    parser = _Page()
    parser.feed(page)
    parser.close()
    return re.sub(r"[ \t]*\n[ \t]*(?:\n\s*)*\n", "\n\n", "".join(parser.parts)).strip()


def parts_of(text: str, span: Span, levels: Sequence[Splitter], fits: Callable[[Sequence[str]], Sequence[bool]]) -> Iterator[Span]:
    """The coarsest spans inside `span` that fit, in order; characters where not even a word does."""
    parts = levels[0](text, *span) if levels else _halves(*span)
    for part, good in zip(parts, fits([text[start:end] for start, end in parts]), strict=True):
        if good or part[1] - part[0] == 1:
            yield part
        else:
            yield from parts_of(text, part, levels[1:], fits)


def _halves(start: int, end: int) -> list[Span]:
    return [(start, (start + end) // 2), ((start + end) // 2, end)]
