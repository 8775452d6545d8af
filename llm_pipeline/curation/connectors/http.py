"""One HTTP request to where it may go: addresses are checked after resolution, and the connection goes to the address that was checked."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

from llm_pipeline.errors import PipelineError

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_BLOCK = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(PipelineError):
    """This address is not fetched, or its answer is not taken; the message is `reason: detail`."""


@dataclass(frozen=True)
class Answer:
    """What a server said; `url` is where the redirects ended."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Client:
    """Requests with limits of size and time. Without `allow_private` only addresses of the public internet are connected to."""

    user_agent: str
    allow_private: bool = False
    max_bytes: int = 8 << 20
    timeout: float = 20.0
    """Seconds for each step, and three times that for an answer as a whole."""
    requests: int = field(default=0, init=False)

    def get(self, url: str, headers: Mapping[str, str] | None = None, allow: Callable[[str], None] = lambda _: None) -> Answer:
        """The answer after redirects, each of which is checked like the first address; `allow` may raise Refused for where they lead."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._once(url, headers or {})
            target = answer.headers.get("location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            url = urljoin(url, target)
            allow(url)
        raise Refused(f"too_many_redirects: more than {MAX_REDIRECTS}")

    def _once(self, url: str, headers: Mapping[str, str]) -> Answer:
        import urllib3

        pool, path, host = self._pool(url)
        self.requests += 1
        until = time.monotonic() + 3 * self.timeout
        try:
            response = pool.urlopen(
                "GET",
                path,
                headers={"Host": host, "User-Agent": self.user_agent, "Accept-Encoding": "gzip", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
            )
            try:
                body = self._body(response, until)
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{url}: {type(error).__name__}: {error}") from error
        finally:
            pool.close()
        return Answer(url, response.status, {name.lower(): value for name, value in response.headers.items()}, body)

    def _body(self, response: Any, until: float) -> bytes:
        body = bytearray()
        for block in response.stream(_BLOCK, decode_content=True):
            body += block
            if len(body) > self.max_bytes:
                raise Refused(f"too_large: more than {self.max_bytes} bytes")
            if time.monotonic() > until:
                raise Refused(f"too_slow: more than {3 * self.timeout:.0f} seconds")
        return bytes(body)

    def _pool(self, url: str) -> tuple[Any, str, str]:
        """(connection to the checked address, path and query, Host header) of a URL."""
        import urllib3

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"unsupported_url: received {url[:80]!r}, expected http:// or https://")
        name = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = self._address(name, port)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = (f"[{name}]" if ":" in name else name) + (f":{parts.port}" if parts.port else "")
        timeout = urllib3.Timeout(connect=self.timeout, read=self.timeout)
        if parts.scheme == "http":
            return urllib3.HTTPConnectionPool(address, port, timeout=timeout), path, host
        secure = urllib3.HTTPSConnectionPool(
            address, port, timeout=timeout, ssl_context=_trust(), server_hostname=name, assert_hostname=name
        )
        return secure, path, host

    def _address(self, name: str, port: int) -> str:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise ConnectionError(f"{name}: {error}") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not self.allow_private and (private := [address for address in addresses if not is_public(address)]):
            raise Refused(f"private_address: {name} is {private[0]}; `allow_private: true` allows it")
        return addresses[0]


@cache
def _trust() -> ssl.SSLContext:
    """The authorities that this machine trusts (`SSL_CERT_FILE` names others), and Mozilla's."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def is_public(address: str) -> bool:
    """Whether an address is of the public internet, also when it wraps an IPv4 address in IPv6."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast
