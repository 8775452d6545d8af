"""Answers found by meaning: questions that are equal in everything but the wording of the last turn, compared by embedding."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a gateway that does not search by meaning does without numpy's memory
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)
Vector: TypeAlias = "NDArray[np.float32]"
Embed: TypeAlias = "Callable[[str], Vector]"
MOST_WAITING = 32
MOST_ALIKE = 2048
"""Vectors that one lookup compares (0.2 ms on the event loop); a space forgets its oldest beyond."""


class Space:
    """Questions that may answer one another: same release, tenant, parameters, conversation before, and facts."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._rows: dict[bytes, int] = {}
        self._vectors: Vector | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, vector: Vector) -> None:
        import numpy as np

        if len(self._keys) >= MOST_ALIKE and key not in self._rows:
            self.remove(self._keys[0])
        row = self._rows.get(key, len(self._keys))
        if self._vectors is None:
            self._vectors = np.zeros((4, len(vector)), np.float32)
        elif row == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
        self._vectors[row] = vector
        if row == len(self._keys):
            self._rows[key] = row
            self._keys.append(key)

    def remove(self, key: bytes) -> None:
        """The last one takes the place of the one that goes."""
        row = self._rows.pop(key, None)
        if row is None or self._vectors is None:
            return
        last = self._keys.pop()
        if last != key:
            self._keys[row], self._rows[last] = last, row
            self._vectors[row] = self._vectors[len(self._keys)]

    def nearest(self, vector: Vector) -> tuple[bytes, float] | None:
        """The most similar question and its cosine similarity."""
        if self._vectors is None or not self._keys:
            return None
        scores = self._vectors[: len(self._keys)] @ vector
        best = int(scores.argmax())
        return self._keys[best], float(scores[best])


class Encoder:
    """An embedding model on a thread of its own; never waited for longer than asked, and not at all while it loads."""

    def __init__(self, load: Callable[[], Embed] | None = None) -> None:
        self._load = load or _default
        self._thread = ThreadPoolExecutor(1, "cache-embedding")
        self._loading: asyncio.Future[Embed] | None = None
        self._waiting = 0

    def ready(self) -> bool:
        """Whether it can be asked now; the first call begins loading the model."""
        if self._loading is None:
            self._loading = asyncio.get_running_loop().run_in_executor(self._thread, self._load)
            self._loading.add_done_callback(_complain)
        done = self._loading.done() and not self._loading.cancelled() and self._loading.exception() is None
        return done and self._waiting < MOST_WAITING

    def vector(self, text: str) -> asyncio.Future[Vector]:
        """The text's vector, soon; only when `ready`."""
        assert self._loading is not None
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._loading.result(), text)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[Vector]) -> None:
        self._waiting -= 1
        _complain(future)

    async def loaded(self) -> None:
        """Wait until the model is there."""
        self.ready()
        assert self._loading is not None
        await asyncio.shield(self._loading)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _complain(future: asyncio.Future[Embed] | asyncio.Future[Vector]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("the answer cache finds nothing by meaning: %r", error)


def _default() -> Embed:
    from llm_pipeline.retrieval.embedding import Embedder

    embedder = Embedder()
    embedder("warm up")
    return embedder
