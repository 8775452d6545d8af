"""The packaged embedding model, loaded once for all tests of the stage."""

from __future__ import annotations

import pytest

from llm_pipeline.retrieval.embedding import Embedder


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder(threads=1)
