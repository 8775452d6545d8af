"""Real sockets against the server's bounds: slow, silent, greedy and vanished clients."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.gateway.asgi import Disconnected, Receive, Scope, Send, read_body, send_json
from llm_pipeline.serving.gateway.connection import Tls, notice_dead_peers, server_options
from llm_pipeline.serving.protection.limits import Protection
from llm_pipeline_tests.certificates import self_signed

PATIENT = Protection()
HASTY = replace(PATIENT, header_seconds=0.3, body_seconds=0.3, send_seconds=0.3, max_header_bytes=2000, connections=2)


class App:
    """Answers with the size of the body, or without an end; remembers who went away."""

    def __init__(self) -> None:
        self.dropped = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            size = len(await read_body(receive))
        except Disconnected:
            self.dropped.set()
            return
        if scope["path"] != "/endless":
            return await send_json(send, 200, {"size": size})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        assert gone.result()["type"] == "http.disconnect"
        self.dropped.set()


@contextmanager
def served(protection: Protection, tls: Tls | None = None, app: Any = None) -> Iterator[tuple[int, Any]]:
    app = app or App()
    config = uvicorn.Config(app, loop="uvloop", ws="none", lifespan="off", log_level="error", **server_options(protection, tls))
    server = uvicorn.Server(config)
    listener = socket.socket()
    notice_dead_peers(listener, protection)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1], app
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def answer(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of what comes until the server closes or the body is there."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        if not piece:
            return 0, {}, None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    while len(body) < int(headers["content-length"]):
        body += client.recv(65536)
    return int(first.split()[1]), headers, json.loads(body)


def until_closed(client: socket.socket) -> None:
    with client:
        while client.recv(65536):
            pass


def request(path: str = "/", body: bytes = b"", headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_a_slow_body_and_a_slow_head_end_in_408() -> None:
    with served(HASTY) as (port, app):
        with connect(port) as client:
            client.sendall(request(body=b"12345")[:-2])
            status, headers, content = answer(client)
            assert (status, content["error"]["code"]) == (408, "request_timeout")
            assert headers["connection"] == "close"
            assert client.recv(10) == b""
        assert app.dropped.wait(10)
        with connect(port) as client:
            client.sendall(request()[:20])
            assert "head was not complete" in answer(client)[2]["error"]["message"]


def test_a_connection_that_says_nothing_is_closed() -> None:
    with served(HASTY) as (port, _), connect(port) as client:
        assert client.recv(10) == b""


def test_heads_have_a_bound_however_they_arrive() -> None:
    with served(replace(HASTY, header_seconds=20.0, connections=20)) as (port, _):
        with connect(port) as client:
            client.sendall(request(headers=f"x-long: {'a' * 3000}\r\n"))
            assert answer(client)[0] == 431
        with connect(port) as client:
            client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\nx-long: ")
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                endless_head(client)
        with connect(port) as client:  # the second request of a connection, and a large body in one piece with its head
            for _ in range(2):
                client.sendall(request(body=b"b" * 60_000))
                assert answer(client)[2] == {"size": 60_000}
            client.sendall(request(headers=f"x-long: {'a' * 3000}\r\n"))
            assert answer(client)[0] == 431


def endless_head(client: socket.socket) -> None:
    for _ in range(100_000):
        client.sendall(b"a" * 1000)


def test_a_client_that_does_not_read_is_dropped_and_its_answer_ends() -> None:
    with served(HASTY) as (port, app), connect(port) as client:
        client.sendall(request("/endless"))
        assert client.recv(1) == b"H"
        assert app.dropped.wait(20)


def test_a_client_that_vanishes_ends_its_answer() -> None:
    with served(PATIENT) as (port, app):
        with connect(port) as client:
            client.sendall(request("/endless"))
            assert client.recv(1) == b"H"
        assert app.dropped.wait(20)


def test_one_connection_too_many_is_refused() -> None:
    with served(replace(HASTY, header_seconds=20.0)) as (port, _), connect(port) as first, connect(port) as second:
        for client in (first, second):
            client.sendall(request())
            assert answer(client)[0] == 200
        with connect(port) as third:
            assert answer(third)[0] == 503


def allow_files(most: int) -> None:
    """Raise this process's limit on open files, which its children take over, as far as it must be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < most:
        pytest.skip(f"this machine lets a process open {hard} files, the test needs {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def test_a_thousand_idle_connections_are_in_nobodys_way() -> None:
    allow_files(2_500)
    with served(PATIENT) as (port, _):
        idle = [connect(port) for _ in range(1000)]
        with connect(port) as client:
            client.sendall(request(body=b"abc"))
            assert answer(client)[2] == {"size": 3}
        for client in idle:
            client.close()


def test_nonsense_is_refused_in_json() -> None:
    with served(PATIENT) as (port, _), connect(port) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, headers, content = answer(client)
        assert (status, content["error"]["code"]) == (400, "bad_request")
        assert headers["x-content-type-options"] == "nosniff"


def test_tls_and_its_headers(tmp_path: Path) -> None:
    tls = Tls(*self_signed(tmp_path))
    context = ssl.create_default_context(cafile=str(tls.certificate))
    with served(PATIENT, tls) as (port, _), connect(port) as plain, context.wrap_socket(plain, server_hostname="localhost") as client:
        client.sendall(request(body=b"abc"))
        status, headers, content = answer(client)
        assert (status, content) == (200, {"size": 3})
        assert headers["strict-transport-security"].startswith("max-age=31536000")
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert client.version() in ("TLSv1.2", "TLSv1.3")
    with pytest.raises(ConfigError, match="no file"):
        Tls(tmp_path / "none.pem", tls.private_key)


def test_a_connection_serves_many_requests_and_ends_when_it_rests_too_long() -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    with served(replace(PATIENT, keep_alive_seconds=1.0)) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        for _ in range(3):
            client.sendall(request)
            assert client.recv(65536).endswith(b'{"size":0}')  # head and body come together
        assert client.recv(1) == b""


def test_a_header_cannot_carry_another_one() -> None:
    async def smuggling(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-cache", b"hit\r\nx-more: 1")]})

    with served(PATIENT, app=smuggling) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"x-more" not in answer
