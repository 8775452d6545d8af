"""A polite crawler: sitemap or links of the same hosts, robots.txt, a pause between requests, and only what changed is fetched again."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from llm_pipeline.config import build
from llm_pipeline.curation.connectors.http import Answer, Client, Refused
from llm_pipeline.curation.connectors.landing import DayFiles, Landing, expanded
from llm_pipeline.curation.connectors.retry import retrying
from llm_pipeline.curation.decoding import decode, decode_page
from llm_pipeline.curation.sources import Source
from llm_pipeline.curation.unpack import Stream, unpacked
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home, content_hash, write_atomically

_SITEMAP_DEPTH = 3
_MAX_ROBOTS = 500 << 10
"""Bytes of robots.txt that count (RFC 9309, section 2.5)."""


@dataclass(frozen=True)
class WebOptions:
    """How far and how fast the crawler goes; `uri` of the source is a sitemap (`.xml`, `.xml.gz`) or the first page."""

    start: tuple[str, ...] = ()
    """More sitemaps or first pages."""
    hosts: tuple[str, ...] = ()
    """Further hosts that links may lead to; those of the first addresses always count."""
    max_pages: int = 1000
    max_depth: int = 3
    """Links away from a first page."""
    pause: float = 1.0
    """Seconds between two requests to a host; a longer crawl delay in robots.txt counts instead."""
    max_bytes: int = 8 << 20
    timeout: float = 20.0
    user_agent: str = "llm-pipeline-crawler"
    allow_private: bool = False


def land(source: Source, home: Home, day: str) -> Path:
    """Fetch pages that are new or changed since the last crawl; a day that was crawled before is read again as it was."""
    landing = Landing.of(source, home)
    with landing.lock():
        state = landing.state()
        if day not in state.get("days", []):
            crawl = Crawl(source, landing, state.setdefault("pages", {}))
            crawl.run(day)
            landing.save({"days": sorted([*state.get("days", []), day]), "pages": crawl.known})
    return landing.root / day


@dataclass
class Crawl:
    """One crawl of one source; `outcomes` says what became of every address."""

    source: Source
    landing: Landing
    known: dict[str, Any]
    """Of each page: sha256 of its content and what to ask for changes with."""
    outcomes: dict[str, str] = field(default_factory=dict)
    _robots: dict[str, Any] = field(default_factory=dict)
    _next: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"source {self.source.name!r}"
        assert self.source.uri
        self.options = build(WebOptions, dict(self.source.options), f"{where}: options")
        self._first = [expanded(uri, f"{where}: uri") for uri in (self.source.uri, *self.options.start)]
        self._hosts = {*(urlsplit(uri).netloc for uri in self._first), *self.options.hosts}
        options = self.options
        self.client = Client(options.user_agent, options.allow_private, options.max_bytes, options.timeout)

    def run(self, day: str) -> None:
        with DayFiles(self.landing, "pages") as files:
            for url, answer in self._pages():
                if answer is not None:
                    files.write(day, _row(url, answer))
        log = self.landing.root / day / ".outcomes.json"
        write_atomically(log, json.dumps(self.outcomes, indent=1, sort_keys=True))
        if self.outcomes and not any(outcome in ("fetched", "unchanged") for outcome in self.outcomes.values()):
            url, outcome = next(iter(self.outcomes.items()))
            raise InputError(f"source {self.source.name!r}: none of {len(self.outcomes)} pages could be fetched; {url}: {outcome}")

    def _pages(self) -> Iterator[tuple[str, Answer | None]]:
        """(address, page, or None when it is as it was), sitemaps first, then links in the order of their distance."""
        waiting = deque((urldefrag(url).url, 0) for first in self._first for url in self._expand(first, _SITEMAP_DEPTH))
        seen = {url for url, _ in waiting}
        while waiting and len(self.outcomes) < self.options.max_pages:
            url, depth = waiting.popleft()
            try:
                answer, changed = self._page(url)
            except (Refused, OSError) as error:
                self.outcomes[url] = str(error)
                continue
            self.outcomes[url] = "fetched" if changed else "unchanged"
            yield url, answer if changed else None
            for link in _links(answer) if depth < self.options.max_depth and not _is_sitemap(self._first[0]) else ():
                if link not in seen and urlsplit(link).netloc in self._hosts:
                    seen.add(link)
                    waiting.append((link, depth + 1))

    def _expand(self, url: str, depth: int) -> Iterator[str]:
        """The pages of a sitemap (sitemaps.org, protocol 0.9), also of one that lists sitemaps; of any other address itself."""
        if not _is_sitemap(url):
            yield url
            return
        try:
            body = self._get(url, {}).body
            if body.startswith(b"\x1f\x8b"):
                body = unpacked(Stream([body]), "gz").whole(self.options.max_bytes)[0]
            locations = re.findall(r"<loc>\s*+(?:<!\[CDATA\[\s*+)?([^<>\]\s]+)", decode(body)[0])[: self.options.max_pages]
        except (Refused, OSError, ValueError) as error:
            self.outcomes[url] = str(error)
            return
        for location in locations:
            location = location.replace("&amp;", "&")
            if urlsplit(location).netloc not in self._hosts:
                self.outcomes[location] = "other_host: not among the hosts of this source"
            elif depth:
                yield from self._expand(location, depth - 1)

    def _page(self, url: str) -> tuple[Answer, bool]:
        """The page and whether it is new or changed; of an unchanged one the content comes from the landing folder."""
        before = self.known.get(url, {})
        asked = {"If-None-Match": before.get("etag"), "If-Modified-Since": before.get("modified")}
        answer = self._get(url, {name: value for name, value in asked.items() if value})
        if answer.status == 304 and before:
            return Answer(url, 200, {"content-type": before["type"]}, self.landing.blob(before["sha256"]).read_bytes()), False
        if answer.status != 200:
            raise Refused(f"http_{answer.status}: no page")
        kind = answer.headers.get("content-type", "text/html").split(";")[0].strip().lower()
        if kind not in ("text/html", "application/xhtml+xml", "text/plain", "text/markdown"):
            raise Refused(f"unsupported_format: {kind}; expected HTML or plain text")
        page = {
            "sha256": self.landing.keep_bytes(answer.body),
            "etag": answer.headers.get("etag"),
            "modified": answer.headers.get("last-modified"),
            "type": answer.headers.get("content-type", "text/html"),
        }
        self.known[url] = page
        return answer, page["sha256"] != before.get("sha256")

    def _get(self, url: str, headers: dict[str, str]) -> Answer:
        self._allow(url)
        self._wait(urlsplit(url).netloc, self._rules(url).crawl_delay(self.options.user_agent) or 0)
        return retrying(lambda: _without_failure(self.client.get(url, headers, self._allow)), url)

    def _allow(self, url: str) -> None:
        if urlsplit(url).netloc not in self._hosts:
            raise Refused(f"other_host: {url[:120]} is not on a host of this source")
        if not self._rules(url).can_fetch(url, self.options.user_agent):
            raise Refused("robots: robots.txt does not allow it")

    def _wait(self, host: str, delay: float) -> None:
        if (left := self._next.get(host, 0) - time.monotonic()) > 0:
            time.sleep(left)
        self._next[host] = time.monotonic() + max(delay, self.options.pause)

    def _rules(self, url: str) -> Any:
        """robots.txt of a host (RFC 9309): absent allows everything, out of reach is Refused."""
        from protego import Protego

        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._robots:
            try:
                answer = retrying(lambda: _without_failure(self.client.get(f"{origin}/robots.txt")), origin)
                text = answer.body[:_MAX_ROBOTS].decode("utf-8", "replace") if answer.status == 200 else ""
                self._robots[origin] = Protego.parse(text)
            except OSError as error:
                self._robots[origin] = Refused(f"robots: robots.txt is out of reach, so nothing is fetched: {error}")
        rules = self._robots[origin]
        if isinstance(rules, Refused):
            raise rules
        return rules


def _without_failure(answer: Answer) -> Answer:
    """Another try may help where the server is the one that failed, or is asked too often."""
    if answer.status == 429 or answer.status >= 500:
        raise ConnectionError(f"http_{answer.status}: the server cannot answer now")
    return answer


def _is_sitemap(url: str) -> bool:
    return urlsplit(url).path.endswith((".xml", ".xml.gz"))


def _links(answer: Answer) -> list[str]:
    """Where the links of a page lead, without those that ask not to be followed."""
    from trafilatura.utils import load_html

    page = load_html(_text(answer))
    if page is None:
        return []
    if any("nofollow" in (meta.get("content") or "").lower() for meta in page.iterfind(".//meta[@name='robots']")):
        return []
    base = page.find(".//base[@href]")
    start = urljoin(answer.url, base.get("href")) if base is not None else answer.url
    found = []
    for link in page.iterfind(".//a[@href]"):
        try:
            target = urldefrag(urljoin(start, link.get("href").strip())).url
        except ValueError:
            continue
        if urlsplit(target).scheme in ("http", "https") and "nofollow" not in (link.get("rel") or ""):
            found.append(target)
    return found


def _text(answer: Answer) -> str:
    try:
        return decode_page(answer.body, answer.headers.get("content-type", ""))[0]
    except ValueError:
        return answer.body.decode("utf-8", "replace")


def _row(url: str, answer: Answer) -> dict[str, str]:
    """A row that normalisation takes its main text from."""
    plain = answer.headers.get("content-type", "").startswith(("text/plain", "text/markdown"))
    return {"id": content_hash(url), "uri": url, "kind": "web", ("text" if plain else "html"): _text(answer)}
