"""Copies of requests for a release that answers nobody yet: what it would have said is logged, and the client waits for none of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llm_pipeline.serving.gateway.asgi import HttpError, Send

log = logging.getLogger(__name__)
VARIANT = "shadow"
"""The variant of the interactions that come of it."""
MOST_COPIES = 16
"""Copies under way at once in one gateway; a request that comes while there are so many is not copied."""


class Mirror:
    """Answers copies beside the requests themselves, in bounded number."""

    def __init__(self, most: int = MOST_COPIES) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self.copied = self.dropped = 0

    def offer(self, answer: Callable[[Send], Awaitable[None]]) -> None:
        """Run `answer` in the background with a `send` that leads nowhere; it records the interaction itself."""
        if len(self._tasks) >= self._most:
            self.dropped += 1
            return
        self.copied += 1
        task = asyncio.create_task(self._run(answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, answer: Callable[[Send], Awaitable[None]]) -> None:
        try:
            await answer(_nowhere)
        except HttpError as error:
            log.info("a mirrored request was refused: %s", error.message)
        except Exception:
            log.exception("a mirrored request failed")


async def _nowhere(message: MutableMapping[str, Any]) -> None:
    """Nobody waits for the answer."""
