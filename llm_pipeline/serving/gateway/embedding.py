"""/v1/embeddings: the configured embedder's vectors, or those of the release's index, off the event loop; or an upstream's, passed on."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llm_pipeline.serving.gateway.arms import Arm
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.protocol_more import EmbeddingRequest, embedding_reply
from llm_pipeline.serving.gateway.settings import GatewaySettings
from llm_pipeline.serving.gateway.upstream import Upstream
from llm_pipeline.serving.gateway.upstream_ask import Engines
from llm_pipeline.serving.observability.telemetry import trace_of

PATH = "/v1/embeddings"


class Embeddings:
    """One thread embeds; requests wait for it in turn."""

    def __init__(self, settings: GatewaySettings, engines: Engines, upstream: Upstream | None) -> None:
        self._path, self._engines, self._upstream = settings.embedder, engines, upstream
        self._thread = ThreadPoolExecutor(1, "embeddings")
        self._own: Any = None

    async def embed(self, request: EmbeddingRequest, arm: Arm | None) -> dict[str, Any]:
        if self._upstream is not None:
            body = {"input": list(request.texts), "encoding_format": "base64" if request.base64 else "float"}
            return await self._engines.fetch(self._upstream, PATH, body, uuid.uuid4().hex, trace_of(None).header)
        vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._vectors, request, arm)
        return embedding_reply(request, vectors)

    def _vectors(self, request: EmbeddingRequest, arm: Arm | None) -> Any:
        if self._own is None and self._path is not None:
            from llm_pipeline.retrieval.embedding import Embedder

            self._own = Embedder(self._path)
        embedder = self._own or getattr(arm.route.searcher if arm else None, "embedder", None)
        if embedder is None:
            raise HttpError(404, "there is no embedder: neither in the gateway's settings nor in the release's index", code="no_embedder")
        return embedder.embed(list(request.texts))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
