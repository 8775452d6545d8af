"""A real gateway process before difficult clients, in front of an engine of the test's own: bounds, limits, and silent logs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_pipeline.records import Release
from llm_pipeline.serving.guardrails import build_policy
from llm_pipeline.serving.protection.keys import Limits
from llm_pipeline.serving.supervision.processes import free_port, start
from llm_pipeline.serving.traffic.state import Engine, Spec, State
from llm_pipeline_tests.serving.gateways import FakeEngine, served
from llm_pipeline_tests.serving.test_connection import allow_files, answer, connect, endless_head, until_closed

SETTINGS = """
protection: {header_seconds: 1.0, body_seconds: 1.0, send_seconds: 1.0, max_header_bytes: 8000, max_body_bytes: 100000}
"""
ENDLESS, SLOW = "tell me everything", "take your time"


@dataclass
class Place:
    port: int
    state: State
    engine: FakeEngine
    key: str
    log: Path

    def request(self, *, key: str | None = None, **body: Any) -> httpx.Response:
        content = {"model": "default", "messages": [{"role": "user", "content": "What is the fee?"}], "max_tokens": 20} | body
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.post(f"http://127.0.0.1:{self.port}/v1/chat/completions", json=content, headers=headers, timeout=30)

    def raw(self, body: bytes, length: int | None = None, extra: str = "") -> bytes:
        size = len(body) if length is None else length
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.key}\r\ncontent-length: {size}\r\n{extra}\r\n"
        return head.encode() + body

    def key_with(self, name: str, limits: Limits) -> str:
        """A key that the gateway knows already."""
        secret = self.state.keys.add(name, ["chat"], limits=limits)
        headers = {"authorization": f"Bearer {secret}"}
        wait(lambda: httpx.get(f"http://127.0.0.1:{self.port}/v1/models", headers=headers, timeout=10).status_code == 200)
        return secret


def wait(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    allow_files(1_500)
    folder = tmp_path_factory.mktemp("protected") / "endpoint"
    folder.mkdir()
    (folder / "gateway.yaml").write_text(SETTINGS)

    held = threading.Event()

    def script(body: Mapping[str, Any]) -> Sequence[Any]:
        asked = str(body["messages"])
        return ["word " * 400] * 50_000 if ENDLESS in asked else ["Let me see. ", held] if SLOW in asked else ["Three", " euros."]

    engine = FakeEngine(script)
    state, log, port = State(folder), folder / "gateway.log", free_port()
    spec = Spec("/model", {"grounded": "{passages}{question}"}, asdict(build_policy({"maximum_answer_characters": 10**9})))
    with served(engine) as url:
        release = state.register(Release("m", "p", None, "g", {"name": "transformers"}), spec)
        state.put_engines([Engine("e-0", state.find(release).engine, url, 1, "ready", 0, "")])
        state.set_traffic({release: 1.0}, "test")
        key = state.keys.add("app", ["chat", "feedback"])
        process = start("llm_pipeline.serving.gateway.app", ["--folder", str(folder), "--port", str(port)], log)
        try:
            wait(lambda: process.poll() is not None or ready(port))
            assert process.poll() is None, log.read_text()
            yield Place(port, state, engine, key, log)
        finally:
            held.set()
            process.terminate()
            process.wait(20)
            state.close()


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_body_that_comes_too_slowly_ends_in_408(place: Place) -> None:
    with connect(place.port) as client:
        client.sendall(place.raw(b'{"messages": ', length=500))
        status, headers, content = answer(client)
        assert (status, content["error"]["code"], headers["connection"]) == (408, "request_timeout", "close")


def test_large_heads_and_bodies_are_refused(place: Place) -> None:
    with connect(place.port) as client:
        client.sendall(place.raw(b"{}", extra=f"x-long: {'a' * 9000}\r\n"))
        assert answer(client)[0] == 431
    with connect(place.port) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ")
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            endless_head(client)
    with connect(place.port) as client:
        client.sendall(place.raw(b" " * 100_001))
        assert answer(client)[0] == 413


def test_a_client_that_reads_nothing_is_dropped_and_the_engine_stops(place: Place) -> None:
    place.engine.dropped.clear()
    body = json.dumps({"messages": [{"role": "user", "content": ENDLESS}], "stream": True}).encode()
    with connect(place.port) as client:
        client.sendall(place.raw(body))
        assert client.recv(1) == b"H"
        assert place.engine.dropped.wait(60)
        assert place.request().status_code == 200


def test_a_client_that_vanishes_gives_its_place_back(place: Place) -> None:
    place.engine.dropped.clear()
    one = place.key_with("one at once", Limits(concurrent=1))
    body = json.dumps({"messages": [{"role": "user", "content": SLOW}], "stream": True}).encode()
    with connect(place.port) as client:
        client.sendall(place.raw(body).replace(place.key.encode(), one.encode()))
        assert client.recv(1) == b"H"
        refused = place.request(key=one)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert place.engine.dropped.wait(60)
    wait(lambda: place.request(key=one).status_code == 200)


def test_idle_and_half_sent_connections_are_in_nobodys_way_and_end(place: Place) -> None:
    idle = [connect(place.port) for _ in range(1000)]
    for client in idle[:500]:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost")
    assert place.request().status_code == 200
    for client in idle:
        until_closed(client)


def test_limits_of_a_key(place: Place) -> None:
    key = place.key_with("three a minute", Limits(requests_per_minute=3, tokens_per_minute=100_000))
    good = [place.request(key=key) for _ in range(3)]
    assert [reply.status_code for reply in good] == [200, 200, 200]
    assert good[0].headers["x-ratelimit-limit-requests"] == "3"
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in good] == ["2", "1", "0"]
    refused = place.request(key=key)
    assert refused.status_code == 429
    assert refused.json()["error"] == {
        "message": "the key 'three a minute' may use 3 requests a minute",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    spent = place.key_with("spent", Limits(monthly_tokens=10))
    assert place.request(key=spent).json()["error"]["code"] == "quota_exceeded"


def test_answers_carry_the_headers_that_keep_them_safe(place: Place) -> None:
    reply = place.request()
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in reply.headers
    assert "server" not in reply.headers


def test_no_secret_is_in_any_log(place: Place) -> None:
    base, secret = f"http://127.0.0.1:{place.port}", place.key
    headers = {"authorization": f"Bearer {secret}"}
    assert httpx.get(f"{base}/v1/models?api_key={secret}", headers=headers).status_code == 200
    assert httpx.get(f"{base}/v1/{secret}", headers=headers).status_code == 404
    assert httpx.post(f"{base}/v1/chat/completions", content=secret, headers=headers).status_code == 400
    assert httpx.post(f"{base}/v1/feedback", json={secret: secret}, headers=headers).status_code == 400
    assert httpx.get(f"{base}/v1/models", headers={"authorization": f"Bearer {secret}x"}).status_code == 401
    assert place.request(user="somebody").status_code == 200
    with connect(place.port) as client:
        client.sendall(f"BROKEN {secret}\r\n\r\n".encode())
        assert answer(client)[0] == 400
    place.state.keys.add("another", ["chat"])
    written = [path for path in place.state.folder.rglob("*") if path.is_file()]
    assert place.log in written
    assert any("interactions" in path.parts for path in written)
    for path in written:
        assert secret.encode() not in path.read_bytes(), path
