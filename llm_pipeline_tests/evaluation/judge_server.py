"""A real HTTP server on 127.0.0.1 that replies as a test says: the model behind a judge, without a model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]


def completion(text: str = "fine", finish: str = "stop") -> Answer:
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}, {}


class Script:
    """A real HTTP server that answers as `reply(body, number of the request)` says."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Answer]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most = 0
        lock = threading.Lock()
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    script.bodies.append(body)
                    script.headers.append(dict(self.headers))
                    number = len(script.bodies)
                    script.running += 1
                    script.most = max(script.most, script.running)
                status, content, headers = reply(body, number)
                with lock:
                    script.running -= 1
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
