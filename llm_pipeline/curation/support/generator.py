"""Writes a day of the `support` source as raw files, and what is true about them where the pipeline cannot see it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_pipeline.curation.support import documents, plants
from llm_pipeline.curation.support.bank import SupportConfig, articles_of
from llm_pipeline.curation.support.documents import Doc
from llm_pipeline.curation.support.plants import Broken, Pair
from llm_pipeline.curation.support.suites import write_suites

__all__ = ["SHARES", "Day", "SupportConfig", "counts", "generate_day", "make_day", "write_suites"]

# Shares of a day's documents; plain notes fill up what remains.
SHARES = {
    "conversation": 0.56,
    "web": 0.085,
    "conversation/exact": 0.015,
    "conversation/near": 0.025,
    "note/exact": 0.008,
    "note/near": 0.012,
    "conversation/toxic": 0.012,
    "note/toxic": 0.004,
    "conversation/backdoor": 0.012,
    "conversation/instruction": 0.004,
    "note/instruction": 0.004,
    "note/tags": 0.004,
    "note/zero_width": 0.004,
    "web/hidden": 0.006,
    "note/leak": 0.01,
    "web/leak": 0.006,
    "conversation/foreign": 0.01,
    "note/foreign": 0.014,
    "web/foreign": 0.006,
    "note/gibberish": 0.018,
    "web/boilerplate": 0.008,
}


@dataclass(frozen=True)
class Day:
    """All that is written on one day."""

    documents: tuple[Doc, ...]
    pairs: tuple[Pair, ...]
    broken: tuple[Broken, ...]
    markdown: dict[str, str] = field(default_factory=dict)


def counts(config: SupportConfig) -> dict[str, int]:
    """How many documents of each sort a day has beside its articles; every plant at least once."""
    total = config.documents_per_day
    result = {name: max(1, round(share * total)) for name, share in SHARES.items()}
    result["note"] = max(1, total - sum(result.values()))
    return result


def make_day(config: SupportConfig, day: str) -> Day:
    """Everything of `day`, in memory; the same config and day give the same."""
    n = counts(config)
    docs = [documents.conversation(config, day, i) for i in range(n["conversation"])]
    docs += [documents.note(config, day, i) for i in range(n["note"])]
    docs += [documents.web(config, day, i) for i in range(n["web"])]
    docs += _planted(config, day, n)
    copies = list(_copies(config, day, n))
    docs += [doc for doc, _ in copies]
    articles = articles_of(config, day)
    docs += [Doc(article.slug, "article", article.title, article.paragraphs) for article in articles]
    markdown = {article.slug: article.markdown() for article in articles}
    return Day(tuple(docs), tuple(pair for _, pair in copies), plants.broken_files(config, day), markdown)


def generate_day(config: SupportConfig, day: str, landing: Path, truth: Path) -> dict[str, int]:
    """Write `landing/support/<day>/` and `truth/<day>.json`; return the number of documents by kind.

    A file whose content is already right is left alone, so that its modification time stays; one that does not belong
    to the day any more is removed.
    """
    made = make_day(config, day)
    folder = landing / "support" / day
    files = _files(config, day, made)
    for name, content in files.items():
        _write(folder / name, content)
    for path in [*folder.glob("*/*"), *folder.glob("*.gz")]:
        if str(path.relative_to(folder)) not in files:
            path.unlink()
    _write(truth / f"{day}.json", json.dumps(_truth(day, made), ensure_ascii=False, sort_keys=True, indent=0).encode())
    kinds = [doc.kind for doc in made.documents]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))} | {"broken": len(made.broken)}


def _planted(config: SupportConfig, day: str, n: dict[str, int]) -> Iterator[Doc]:
    """Documents with a plant; their numbers start above the plain ones."""
    makers = {"conversation": documents.conversation, "note": documents.note, "web": documents.web}
    change = {
        "toxic": plants.toxic,
        "backdoor": plants.backdoor,
        "instruction": plants.visible_instruction,
        "tags": plants.invisible_tags,
        "zero_width": plants.zero_width,
        "hidden": plants.hidden_instruction,
    }
    number = 5000
    for sort, count in n.items():
        kind, _, plant = sort.partition("/")
        for i in range(count if plant else 0):
            r = config.random("plant", sort, day, i)
            number += 1
            if plant in change:
                yield change[plant](makers[kind](config, day, number), r)
            elif plant == "leak":
                yield plants.leak(config, day, i, makers[kind](config, day, number), r)
            elif plant == "foreign":
                yield documents.foreign(config, day, i, kind)
            elif plant == "gibberish":
                yield plants.gibberish(f"n-{day}-{number:04d}", r)
            elif plant == "boilerplate":
                yield plants.boilerplate(f"w-{day}-{number:04d}")


def _copies(config: SupportConfig, day: str, n: dict[str, int]) -> Iterator[tuple[Doc, Pair]]:
    number = 8000
    for kind in ("conversation", "note"):
        for similarity in ("exact", "near"):
            for i in range(n[f"{kind}/{similarity}"]):
                r = config.random("copy", kind, similarity, day, i)
                original = plants.originals(config, day, kind, n[kind], r)
                number += 1
                key = f"{kind[0]}-{day}-{number:04d}"
                yield plants.exact_copy(original, key) if similarity == "exact" else plants.near_copy(original, key, r)


def _files(config: SupportConfig, day: str, made: Day) -> dict[str, bytes]:
    """Content by path relative to the day's folder."""
    rows, files = [], {}
    for doc in made.documents:
        if doc.kind == "conversation":
            rows.append(_row(config, day, doc))
        elif doc.kind == "article":
            files[f"articles/{doc.key}.md"] = made.markdown[doc.key].encode()
        elif doc.kind == "web":
            uri = f"https://bank.example/help/{doc.key}"
            files[f"web/{doc.key}.html"] = documents.page(doc, config.random("page", doc.key), uri).encode()
        else:
            files[f"notes/{doc.key}.txt"] = (doc.text() + "\n").encode()
    config.random("order", day).shuffle(rows)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files["conversations.jsonl.gz"] = gzip.compress(lines.encode(), compresslevel=6, mtime=0)
    return files | {file.name: file.content for file in made.broken}


def _row(config: SupportConfig, day: str, doc: Doc) -> dict[str, Any]:
    r = config.random("metadata", doc.key)
    messages = [{"role": role, "content": content} for turn in doc.turns for role, content in zip(("customer", "agent"), turn, strict=True)]
    metadata = {"channel": r.choice(("chat", "phone", "mail")), "day": day, "rating": r.randint(1, 5)}
    return {"id": doc.key, "messages": messages, "metadata": metadata}


def _truth(day: str, made: Day) -> dict[str, Any]:
    return {
        "day": day,
        "documents": [
            {
                "key": doc.key,
                "kind": doc.kind,
                "language": doc.language,
                "plants": list(doc.plants),
                "payload": doc.payload,
                "pii": [[span.entity, span.value] for span in doc.pii],
            }
            for doc in made.documents
        ],
        "pairs": [asdict(pair) for pair in made.pairs],
        "broken": [{"name": file.name, "treatment": file.treatment, "expected": file.expected} for file in made.broken],
    }


def _write(path: Path, content: bytes) -> None:
    """Replace `path` in one step unless it is right already. Not flushed to the disk: what a crash loses is made again."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_bytes(content)
    os.replace(staging, path)
