"""Clients that keep asking while a test does something to the endpoint."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import Counter
from types import TracebackType
from typing import Any


def ask(url: str, key: str, question: str = "What is the fee?", user: str | None = None, timeout: float = 60.0) -> tuple[int, Any]:
    """Status and body of one chat request over a connection of its own; status 0 when none could be made or it broke."""
    body = {"model": "default", "messages": [{"role": "user", "content": question}], "max_tokens": 4} | ({"user": user} if user else {})
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except (urllib.error.URLError, OSError, ValueError):
        return 0, {}


class Load:
    """A few clients, each a user, that ask until the `with` block ends."""

    def __init__(self, url: str, key: str, clients: int = 3) -> None:
        self._url, self._key = url, key
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"user-{n}",)) for n in range(clients)]
        self.statuses: Counter[int] = Counter()
        self.releases: Counter[str] = Counter()
        self.acknowledged: set[str] = set()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            status, reply = ask(self._url, self._key, user=f"{name}-{number}")
            self.statuses[status] += 1
            if status == 200:
                self.releases[reply["release"]] += 1
                self.acknowledged.add(reply["interaction_id"])
