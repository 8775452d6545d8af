"""A small deterministic OpenAI-compatible server for tests of what is asked over HTTP: it shows the shape of answers, not their worth."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeServer(ThreadingHTTPServer):
    """Answers the last word of the question; `echo` says whether /v1/completions scores the prompt: yes, no, or ignored."""

    daemon_threads = True

    def __init__(self, echo: str = "no", key: str | None = None, failures: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.echo, self.key, self.failures = echo, key, failures
        self.requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "fake-1"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.server.key and self.headers.get("authorization") != f"Bearer {self.server.key}":
            return self._send(401, {"error": {"message": "wrong key"}})
        if self.server.failures > 0:
            self.server.failures -= 1
            return self._send(503, {"error": {"message": "busy"}})
        self.server.requests.append(body)
        if self.path == "/v1/chat/completions":
            return self._send(200, _chat(body))
        if self.path == "/v1/completions" and self.server.echo != "no":
            return self._send(200, _completion(body, self.server.echo == "yes"))
        self._send(404, {"error": {"message": "no such path"}})

    def _send(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _chat(body: dict[str, Any]) -> dict[str, Any]:
    words = body["messages"][-1]["content"].split()
    message = {"role": "assistant", "content": words[-1]}
    usage = {"prompt_tokens": len(words), "completion_tokens": 1}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


def _completion(body: dict[str, Any], echo: bool) -> dict[str, Any]:
    """Tokens are characters; each costs one hundredth of its code, so the likelihood of a text is known; one more is generated."""
    text = (body["prompt"] if echo else "") + "x"
    logprobs = [-ord(character) / 100 for character in text]
    if echo:
        logprobs[0] = None  # type: ignore[call-overload]
    found = {
        "tokens": list(text),
        "token_logprobs": logprobs,
        "text_offset": list(range(len(text))),
        "top_logprobs": [{character: value} for character, value in zip(text, logprobs, strict=True)],
    }
    return {"choices": [{"index": 0, "text": text, "logprobs": found, "finish_reason": "length"}]}
