"""What a page says to its readers: without navigation and page furniture, and without what a browser does not show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d]*[1-9])|opacity\s*:\s*0(?![.\d]*[1-9])",
    re.I,
)


@dataclass(frozen=True)
class Page:
    """A page as text; `hidden` is the text of its comments and invisible elements."""

    title: str
    text: str
    hidden: str


def read_page(page: str) -> Page:
    """Title, main text (by trafilatura, Barbaresi 2021) and hidden text of HTML; all empty for what is no page."""
    import trafilatura
    from trafilatura.utils import load_html

    tree = load_html(page)
    if tree is None:
        return Page("", "", "")
    hidden = [*_comments(page), *_without_invisible(tree)]
    body = trafilatura.extract(tree, fast=True, include_comments=False, include_tables=True, deduplicate=False)
    return Page(" ".join((tree.findtext(".//title") or "").split()), body or "", " ".join(hidden))


def _comments(page: str) -> list[str]:
    found, start = [], page.find("<!--")
    while start >= 0:
        end = page.find("-->", start + 4)
        found.append(page[start + 4 : end if end >= 0 else None])
        start = page.find("<!--", end) if end >= 0 else -1
    return found


def _without_invisible(tree: Any) -> list[str]:
    """Take invisible elements out of the tree; their texts."""
    texts = []
    for element in list(tree.iter("*")):
        if (element.get("hidden") is not None or _HIDING.search(element.get("style") or "")) and element.getparent() is not None:
            texts.append(element.text_content())
            element.drop_tree()
    return texts
