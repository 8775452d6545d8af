"""A stand-in for `vllm serve`: answers at once with a function of the question and of the model's name, so a wrong answer shows.

Started by the supervisor like vLLM itself: an engine setting of name vllm, whose `executable` is the script that `write_executable` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path

from llm_pipeline.serving.gateway.asgi import EventStream, Receive, Scope, Send, lifespan, read_json, send_bytes, send_json, serve


def write_executable(path: Path, *options: str) -> str:
    """A program that is this module; `options` are its own, such as --seconds 0.1."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llm_pipeline_tests.serving.fake_vllm {" ".join(options)} -- "$@"\n')
    path.chmod(0o755)
    return str(path)


def answer_to(question: str) -> str:
    """What the engine says to a question with a number in it."""
    number = re.findall(r"number (\d+)", question)
    return f"the answer is {int(number[-1]) * 7 + 3}" if number else "there was no number"


class Fake:
    """ASGI application with as much of vLLM's port as the gateway and the supervisor use."""

    def __init__(self, seconds: float, megabytes: int, fail: bool) -> None:
        self._seconds, self._fail = seconds, fail
        self._ballast = b"x" * (megabytes << 20)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send, self._nothing, self._nothing)
        if scope["path"] == "/health":
            return await send_bytes(send, 200, b"")
        if scope["path"] == "/metrics":
            return await send_bytes(send, 200, f'vllm:num_requests_running{{engine="0"}} {self._running}.0\n'.encode(), "text/plain")
        await self._chat(await read_json(receive), send)

    async def _nothing(self) -> None: ...

    async def _chat(self, body: dict[str, object], send: Send) -> None:
        self._running += 1
        try:
            messages = body["messages"]
            assert isinstance(messages, list)
            probe = len(messages) == 1 and messages[0]["content"] == "."
            if self._fail and not probe:
                return await send_json(send, 500, {"error": {"message": "broken on purpose", "code": "broken"}})
            if not probe:
                await asyncio.sleep(self._seconds)
            await self._reply(answer_to(str(messages[-1]["content"])), send, stream=bool(body.get("stream")))
        finally:
            self._running -= 1

    async def _reply(self, text: str, send: Send, *, stream: bool) -> None:
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        if not stream:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return await send_json(send, 200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})
        events = EventStream(send)
        head, tail = text[:10], text[10:]
        for delta, finish in (({"role": "assistant", "content": head}, None), ({"content": tail}, None), ({}, "stop")):
            await events.event({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        await events.event({"id": "x", "choices": [], "usage": usage})
        await events.done()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--megabytes", type=int, default=0)
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    port = next(int(json.loads(word.partition("=")[2])) for word in options.rest if word.startswith("--port="))
    serve(Fake(options.seconds, options.megabytes, options.fail), port)


if __name__ == "__main__":
    main()
