"""Mirrored traffic: the last logged questions asked again, so that a canary is judged also while no customer is there."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import aiohttp

from llm_pipeline.serving.observability.interactions import latest_rows
from llm_pipeline.serving.supervision.client import Endpoint
from llm_pipeline.store import Home

KEY = "replay"
"""Name of the key in the interactions that this makes; monitoring leaves them out of what customers asked."""


def replayable(home: Home, most: int) -> list[dict[str, Any]]:
    """The bodies of the last `most` requests of customers that were let in, oldest first."""
    rows = [
        row
        for row in latest_rows(home.endpoint / "interactions", 4 * most)
        if row["key"] != KEY and row["finish_reason"] != "content_filter"
    ]
    return [{"messages": row["messages"], "retrieval": bool(row["passages"]), "max_tokens": 32} for row in rows[-most:]]


class Replay:
    """Sends requests, over and over, until the `with` block ends; each is a session of its own. Their answers are judged by the log."""

    def __init__(self, endpoint: Endpoint, bodies: Sequence[dict[str, Any]], clients: int = 8) -> None:
        self._endpoint, self._bodies, self._clients = endpoint, list(bodies), clients
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="replay", daemon=True)
        self.sent = 0

    def __enter__(self) -> Replay:
        if self._bodies:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._bodies:
            self._thread.join(30)

    async def _run(self) -> None:
        bodies = enumerate(itertools.cycle(self._bodies))
        connector = aiohttp.TCPConnector(ssl=self._endpoint.trust or True)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=connector) as http:
            await asyncio.gather(*(self._client(http, bodies) for _ in range(self._clients)))

    async def _client(self, http: aiohttp.ClientSession, bodies: Any) -> None:
        headers = {"authorization": f"Bearer {self._endpoint.replay_key}"}
        while not self._stop.is_set():
            number, body = next(bodies)
            try:
                async with http.post(
                    f"{self._endpoint.url}/v1/chat/completions", json=body | {"user": f"replay-{number}"}, headers=headers
                ) as reply:
                    await reply.read()
                self.sent += 1
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.2)
