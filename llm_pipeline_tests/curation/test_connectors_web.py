"""The crawler on a server of the test's own: polite, incremental, and only where it may go."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llm_pipeline.curation.connectors import http, retry, web
from llm_pipeline.curation.connectors.http import Client, Refused, is_public
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.sources import Source
from llm_pipeline.errors import InputError
from llm_pipeline.store import Home, table_hash
from llm_pipeline_tests.certificates import self_signed

DAY, NEXT = "2026-01-01", "2026-01-02"


def _page(text: str, *links: str, head: str = "") -> bytes:
    anchors = "".join(f'<a href="{link}">more</a> ' for link in links)
    body = f"<main><p>{text} is what this page is about, at some length.</p><p>It has a second paragraph too.</p></main>"
    return f"<html><head><title>{text}</title>{head}</head><body><nav>{anchors}</nav>{body}</body></html>".encode()


class _Site(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, int]]] = []

    def do_GET(self) -> None:
        status, headers, body = self._answer(self.pages.get(self.path, (404, {}, b"")))
        self.asked.append((self.path, status))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, page: Any) -> tuple[int, dict[str, str], bytes]:
        if isinstance(page, list):
            page = page.pop(0) if len(page) > 1 else page[0]
        if isinstance(page, bytes):
            tag = f'"{hash(page)}"'
            if self.headers.get("If-None-Match") == tag:
                return 304, {}, b""
            return 200, {"Content-Type": "text/html", "ETag": tag}, page
        status, headers, body = page
        return status, headers, body

    def log_message(self, *_: Any) -> None:
        pass


Site = tuple[str, dict[str, Any], list[tuple[str, int]]]
"""(address, its pages, what was asked for)."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with _serving(monkeypatch) as (port, pages, asked):
        yield f"http://127.0.0.1:{port}", pages, asked


@contextmanager
def _serving(
    monkeypatch: pytest.MonkeyPatch, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, dict[str, Any], list[tuple[str, int]]]]:
    monkeypatch.setattr(retry, "pause", lambda _: None)
    monkeypatch.setattr(_Site, "pages", {})
    monkeypatch.setattr(_Site, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port, _Site.pages, _Site.asked
    server.shutdown()
    server.server_close()
    thread.join()


def _source(uri: str, **options: Any) -> Source:
    defaults = {"allow_private": True, "pause": 0.0}
    return Source("site", "web", licence="CC0-1.0", owner="me", consent="public", uri=uri, options=defaults | options)


def _found(source: Source, home: Home, day: str = DAY) -> list[str]:
    documents, _ = normalise(read_source(source, home, day), day)
    return sorted(documents["title"].to_pylist())


def _outcomes(home: Home, day: str = DAY) -> dict[str, str]:
    log = json.loads((home.landing / "site" / day / ".outcomes.json").read_text())
    return {url.split("/", 3)[3]: outcome.split(":")[0] for url, outcome in log.items()}


def test_links_are_followed_within_the_site_and_the_rules(site: Any, tmp_path: Path) -> None:
    address, pages, asked = site
    pages["/robots.txt"] = (200, {}, b"User-agent: *\nDisallow: /private\n")
    pages["/"] = _page("Start", "/a", "b?x=1#part", "/private/c", "https://elsewhere.example/", "mailto:x@y.example", "/missing", "/image")
    pages["/a"] = _page("Page a", "/", "/deep")
    pages["/b?x=1"] = _page("Page b")
    pages["/deep"] = _page("Deep", "/deeper")
    pages["/deeper"] = _page("Deeper")
    pages["/image"] = (200, {"Content-Type": "image/png"}, b"x")
    home = Home(tmp_path)
    assert _found(_source(f"{address}/", max_depth=2), home) == ["Deep", "Page a", "Page b", "Start"]
    assert ("/private/c", 200) not in asked
    assert [path for path, _ in asked].count("/robots.txt") == 1
    assert _outcomes(home) == {
        "": "fetched",
        "a": "fetched",
        "b?x=1": "fetched",
        "deep": "fetched",
        "image": "unsupported_format",
        "missing": "http_404",
        "private/c": "robots",
    }
    row = read_source(_source(f"{address}/"), home, DAY).to_pylist()[0]
    assert (row["uri"], row["problem"]) == (f"{address}/", None)


def test_the_next_day_asks_for_changes_only_and_a_rerun_asks_for_nothing(site: Any, tmp_path: Path) -> None:
    address, pages, asked = site
    pages["/"], pages["/a"] = _page("Start", "/a"), _page("Page a", "/c")
    home, source = Home(tmp_path), _source(f"{address}/")
    first = read_source(source, home, DAY)
    pages["/a"], pages["/c"] = _page("Page a, changed", "/c"), _page("New page")
    asked.clear()
    assert table_hash(read_source(source, home, DAY)) == table_hash(first)
    assert asked == []
    assert _found(source, home, NEXT) == ["New page", "Page a, changed"]
    assert ("/", 304) in asked
    assert _outcomes(home, NEXT) == {"": "unchanged", "a": "fetched", "c": "fetched"}


def test_sitemaps_also_packed_and_of_sitemaps(site: Any, tmp_path: Path) -> None:
    address, pages, _ = site
    index = f"<sitemapindex><sitemap><loc>{address}/inner.xml.gz</loc></sitemap></sitemapindex>"
    inner = f"<urlset><url><loc> {address}/a </loc></url><url><loc>https://elsewhere.example/x</loc></url></urlset>"
    pages["/sitemap.xml"] = (200, {"Content-Type": "text/xml"}, index.encode())
    pages["/inner.xml.gz"] = (200, {"Content-Type": "application/gzip"}, gzip.compress(inner.encode()))
    pages["/a"] = _page("Page a", "/not-in-the-sitemap")
    home = Home(tmp_path)
    assert _found(_source(f"{address}/sitemap.xml"), home) == ["Page a"]
    assert _outcomes(home) == {"a": "fetched", "x": "other_host"}


def test_private_addresses_are_refused_also_behind_redirects_and_names(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, pages, asked = site
    pages["/"] = _page("Start")
    with pytest.raises(InputError, match=r"none of 1 pages could be fetched; .*private_address: 127\.0\.0\.1"):
        read_source(_source(f"{address}/", allow_private=False), Home(tmp_path), DAY)
    assert asked == []

    def resolved(name: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", port))]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolved)
        with pytest.raises(Refused, match=r"innocent\.example is 10\.0\.0\.7"):
            Client("test").get("http://innocent.example/")

    client, checks = Client("test", allow_private=True), []
    pages["/away"] = (302, {"Location": "http://169.254.169.254/latest/meta-data"}, b"")
    check = Client._address

    def checked(self: Client, name: str, port: int) -> str:
        checks.append(name)
        self.allow_private = name == "127.0.0.1"
        return check(self, name, port)

    monkeypatch.setattr(Client, "_address", checked)
    with pytest.raises(Refused, match="private_address: 169"):
        client.get(f"{address}/away")
    assert checks == ["127.0.0.1", "169.254.169.254"]
    with pytest.raises(Refused, match="unsupported_url"):
        client.get("file:///etc/passwd")


def test_https_is_crawled_where_the_certificate_is_trusted_and_names_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private_key = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, private_key)
    with _serving(monkeypatch, tls) as (port, pages, _):
        pages["/"], pages["/a"] = _page("Start", "/a"), _page("Page a")
        http._trust.cache_clear()
        with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
            read_source(_source(f"https://localhost:{port}/"), Home(tmp_path / "unknown"), DAY)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        http._trust.cache_clear()
        assert _found(_source(f"https://localhost:{port}/"), Home(tmp_path / "known")) == ["Page a", "Start"]
        with pytest.raises(InputError, match="doesn't match 'localhost'"):
            read_source(_source(f"https://127.0.0.1:{port}/"), Home(tmp_path / "other"), DAY)
    http._trust.cache_clear()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_limits_loops_and_failures(site: Any, tmp_path: Path) -> None:
    address, pages, _ = site
    pages["/"] = _page("Start", "/big", "/loop", "/busy", "/broken", "/away", "/moved")
    pages["/away"] = (301, {"Location": "https://elsewhere.example/"}, b"")
    pages["/moved"], pages["/robots.txt"] = (301, {"Location": "/private"}, b""), (200, {}, b"User-agent: *\nDisallow: /private\n")
    pages["/big"] = (200, {"Content-Type": "text/html", "Content-Encoding": "gzip"}, gzip.compress(bytes(1 << 20)))
    pages["/loop"] = (301, {"Location": "/loop"}, b"")
    pages["/busy"] = [(503, {}, b""), (429, {}, b""), _page("Busy")]
    pages["/broken"] = (500, {}, b"")
    home = Home(tmp_path)
    assert _found(_source(f"{address}/", max_bytes=100_000), home) == ["Busy", "Start"]
    outcomes = _outcomes(home)
    assert (outcomes["big"], outcomes["loop"], outcomes["broken"]) == ("too_large", "too_many_redirects", "http_500")
    assert (outcomes["away"], outcomes["moved"]) == ("other_host", "robots")
    assert len(_found(_source(f"{address}/", max_pages=1), Home(tmp_path / "one"))) == 1


def test_a_host_is_not_asked_faster_than_allowed(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, pages, _ = site
    pages["/robots.txt"] = (200, {}, b"User-agent: *\nCrawl-delay: 7\n")
    pages["/"], pages["/a"] = _page("Start", "/a"), _page("Page a")
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(web, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0]), "sleep": staticmethod(sleep)}))
    _found(_source(f"{address}/", pause=1.0), Home(tmp_path))
    assert slept == [7.0]


def test_when_robots_txt_is_out_of_reach_nothing_is_fetched(site: Any, tmp_path: Path) -> None:
    address, pages, asked = site
    pages["/robots.txt"], pages["/"] = (503, {}, b""), _page("Start")
    with pytest.raises(InputError, match=r"robots: robots\.txt is out of reach, so nothing is fetched: http_503"):
        read_source(_source(f"{address}/"), Home(tmp_path), DAY)
    assert ("/", 200) not in asked


def test_links_of_pages_that_ask_not_to_be_followed(site: Any, tmp_path: Path) -> None:
    address, pages, _ = site
    pages["/"] = _page("Start", "/a", head='<meta name="robots" content="noarchive, nofollow">')
    pages["/a"] = _page("Page a")
    assert _found(_source(f"{address}/"), Home(tmp_path)) == ["Start"]
