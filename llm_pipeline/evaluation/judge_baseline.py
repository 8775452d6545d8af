"""A judge that is no language model: word overlap behind the same HTTP interface, the same reply every time.

It lets everything around a judge be tried and tested offline (requests, verdicts, calibration, refusal). What it says about quality is
worth little, and calibrating it on human labels shows that: it may not gate.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from llm_pipeline.evaluation.metrics import normalise

MODEL = "word-overlap-baseline"
_MARK = re.compile(r"\AThe mark of this case is ([0-9a-f]{12})\.\n")
_SCHEMA = re.compile(r"of this schema and nothing else: (\{.*\})\s*\Z", re.DOTALL)
_CHOICES = re.compile(r"one of ([\w, -]+)\.\s*\Z")
MARGIN = 0.05
"""Two answers closer than this are a tie."""


def baseline_reply(messages: Sequence[Mapping[str, str]]) -> str:
    """The reply to a prompt of `judge_messages`; raises ValueError for any other prompt."""
    text = messages[-1]["content"] if messages else ""
    if not (marked := _MARK.match(text)):
        raise ValueError("not a case of a rubric of this project: it names no mark")
    parts = dict(re.findall(rf"<<([A-Z ]+) {marked[1]}>>\n(.*?)\n<<END \1 {marked[1]}>>", text, re.DOTALL))
    verdicts, as_json = _asked_for(text)
    names = ["ANSWER"] if "ANSWER" in parts else ["ANSWER A", "ANSWER B"]
    worth = [overlap(parts["QUESTION"], parts[name], parts.get("REFERENCE")) for name in names]
    verdict = _scale(worth[0], verdicts) if len(worth) == 1 else _choice(*worth)
    reason = f"word overlap {', '.join(f'{w:.2f}' for w in worth)} (a heuristic, no language model)"
    key = "score" if len(worth) == 1 else "winner"
    return json.dumps({"reason": reason, key: verdict}) if as_json else f"{reason}\nVERDICT: {verdict}"


def overlap(question: str, answer: str, reference: str | None = None) -> float:
    """F1 of words with the reference; without one, the share of the question's words taken up, less what the answer repeats."""
    said = normalise(answer)
    if not said:
        return 0.0
    if reference:
        wanted = Counter(normalise(reference))
        shared = (wanted & Counter(said)).total()
        return 2 * shared / max(wanted.total() + len(said), 1)
    asked = {word for word in normalise(question) if len(word) > 3}
    taken = len(asked & set(said)) / max(len(asked), 1)
    return 0.5 * taken + 0.5 * len(set(said)) / len(said)


def serve(port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1; `serve_forever` answers `POST /v1/chat/completions`."""
    return ThreadingHTTPServer(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            reply = baseline_reply(body["messages"])
        except (ValueError, LookupError, TypeError) as error:
            self._send(400, {"error": {"message": f"{type(error).__name__}: {error}", "type": "invalid_request_error"}})
            return
        words = sum(len(str(m.get("content", "")).split()) for m in body["messages"])
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        usage = {"prompt_tokens": words, "completion_tokens": len(reply.split()), "total_tokens": words + len(reply.split())}
        self._send(200, {"id": "baseline", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _asked_for(text: str) -> tuple[list[Any], bool]:
    if schema := _SCHEMA.search(text):
        properties = json.loads(schema[1])["properties"]
        return next(value["enum"] for value in properties.values() if "enum" in value), True
    if choices := _CHOICES.search(text):
        return [int(c) if c.lstrip("-").isdigit() else c for c in choices[1].split(", ")], False
    raise ValueError("the prompt names no form of reply")


def _scale(worth: float, verdicts: Sequence[int]) -> int:
    return verdicts[min(len(verdicts) - 1, int(worth * len(verdicts)))]


def _choice(first: float, second: float) -> str:
    return "tie" if abs(first - second) < MARGIN else "A" if first > second else "B"
