"""What the embedding model has already made, by the hash of the text, so that each text is embedded only once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llm_pipeline.retrieval.embedding import TOKEN_DIMENSIONS, Embedder, Progress, Tokens, Vectors
from llm_pipeline.store import content_hash, write_atomically

BLOCK = 2_048
"""So many texts are embedded before they are written down; who is killed loses no more."""


class EmbeddingCache:
    """Vectors and tokens by the hash of their text, in append-only Arrow files under a folder; safe for several writers."""

    def __init__(self, root: Path, embedder: Embedder) -> None:
        self.root, self.embedder = root / content_hash(embedder.id, TOKEN_DIMENSIONS), embedder
        self.made = 0
        """How many texts the last call had to embed."""

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        return self.encode(texts, progress)[0]

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> tuple[Vectors, list[Tokens]]:
        """As `Embedder.encode`."""
        keys = [content_hash(text) for text in texts]
        known = dict(self._read(set(keys)))
        new = [(key, text) for key, text in dict(zip(keys, texts, strict=True)).items() if key not in known]
        self.made = len(new)
        for start in range(0, len(new), BLOCK):
            names, parts = zip(*new[start : start + BLOCK], strict=True)
            report = partial(_report, progress, start, len(new)) if progress else None
            vectors, tokens = self.embedder.encode(parts, report)
            self._write(names, vectors, tokens)
            known.update(zip(names, zip(vectors, tokens, strict=True), strict=True))
        if not keys:
            return self.embedder.encode([])
        return np.stack([known[key][0] for key in keys]), [known[key][1] for key in keys]

    def _read(self, wanted: set[str]) -> Iterator[tuple[str, tuple[Vectors, Tokens]]]:
        for path in sorted(self.root.glob("*.arrow")):
            try:
                table = pa.ipc.open_file(path.read_bytes()).read_all()
            except (pa.ArrowInvalid, OSError):
                path.unlink(missing_ok=True)  # damaged: made again
                continue
            flat: Any = table["vector"].combine_chunks()
            matrix = flat.flatten().to_numpy().reshape(table.num_rows, -1)
            for key, vector, tokens in zip(table["key"].to_pylist(), matrix, table["tokens"], strict=True):
                if key in wanted:
                    yield key, (vector, np.frombuffer(tokens.as_buffer(), np.int8).reshape(-1, TOKEN_DIMENSIONS))

    def _write(self, keys: Sequence[str], vectors: Vectors, tokens: list[Tokens]) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        inside = pa.array([each.tobytes() for each in tokens], pa.large_binary())
        sink = pa.BufferOutputStream()
        table = pa.table({"key": pa.array(list(keys)), "vector": column, "tokens": inside})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_atomically(self.root / f"{content_hash(list(keys))}.arrow", sink.getvalue().to_pybytes())


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)
