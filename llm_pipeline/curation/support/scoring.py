"""How well the pipeline found what was planted: its tables and artefacts against the ground truth, every figure in [0, 1].

Only this module reads the ground truth. A figure whose tables or artefacts do not exist yet is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.curation.support.plants import jaccard, shingles
from llm_pipeline.curation.support.suites import suites
from llm_pipeline.errors import MissingError
from llm_pipeline.store import Home

SIMILAR = 0.7
"""Jaccard similarity of 5-word shingles from which two documents count as duplicates."""
_INVISIBLE = re.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]")
Span = tuple[int, int, str]
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Truth:
    """The ground truth of some days."""

    documents: Mapping[tuple[str, str], Mapping[str, Any]]
    """By day and key."""
    pairs: Sequence[Mapping[str, Any]]
    broken: Sequence[tuple[str, Mapping[str, Any]]]
    """With the day."""

    @staticmethod
    def read(folder: Path, days: Collection[str]) -> Truth:
        documents: dict[tuple[str, str], Mapping[str, Any]] = {}
        pairs: list[Mapping[str, Any]] = []
        broken: list[tuple[str, Mapping[str, Any]]] = []
        for day in sorted(days):
            path = folder / f"{day}.json"
            if not path.exists():
                continue
            content = json.loads(path.read_text("utf-8"))
            documents |= {(day, doc["key"]): doc for doc in content["documents"]}
            pairs += content["pairs"]
            broken += [(day, file) for file in content["broken"]]
        return Truth(documents, pairs, broken)

    def planted(self, plant: str) -> list[tuple[str, str]]:
        return [at for at, doc in self.documents.items() if plant in doc["plants"]]

    @cached_property
    def plain(self) -> list[tuple[str, str]]:
        """English documents without any plant."""
        return [at for at, doc in self.documents.items() if not doc["plants"]]


@dataclass
class Counts:
    """True and false positives and misses, for precision, recall and F1 (micro when types are summed)."""

    predicted: int = 0
    right: int = 0
    expected: int = 0
    found: int = 0

    @property
    def precision(self) -> float:
        return self.right / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.found / self.expected if self.expected else 0.0

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def score(config: SupportConfig, truth: Path, home: Home) -> dict[str, float]:
    """Figures of every stage that has run, over the days that have both a ground truth and a table."""
    known = Truth.read(truth, _days(home, "documents"))
    documents = _keyed(home, "documents", known)
    kept = _keyed(home, "filtered_documents", known)
    figures = {**_normalising(known, documents, home), **_filters(known, documents, kept)}
    figures |= pii(known, kept or documents, _rows(home, "scrubbed_spans", ("id", "start", "end", "entity")))
    return figures | _snapshot(config, known, home)


def pii(
    known: Truth, read: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], spans: Sequence[Mapping[str, Any]] | None
) -> dict[str, float]:
    """Micro F1 over the spans of all documents that were scrubbed; a span is right when it overlaps one of its type."""
    if spans is None:
        return {}
    predicted: dict[str, list[Span]] = {}
    for row in spans:
        predicted.setdefault(row["id"], []).append((row["start"], row["end"], row["entity"]))
    total = Counts()
    by_type: dict[str, Counts] = {}
    for at, documents in read.items():
        for document in documents:
            expected, found = expected_spans(document["text"], known.documents[at]["pii"]), predicted.get(document["id"], [])
            for span in expected:
                _count(span, found, (total, by_type.setdefault(span[2], Counts())), wanted=True)
            for span in found:
                _count(span, expected, (total, by_type.setdefault(span[2], Counts())), wanted=False)
    planted = {name: counts for name, counts in by_type.items() if counts.expected}
    figures = {"pii_f1": total.f1, "pii_precision": total.precision, "pii_recall": total.recall}
    figures["pii_types"] = float(sum(counts.found > 0 for counts in planted.values()))
    return figures | {f"pii_f1/{name}": counts.f1 for name, counts in sorted(planted.items())}


def _count(span: Span, others: Sequence[Span], counts: Iterable[Counts], *, wanted: bool) -> None:
    hit = any(span[0] < other[1] and other[0] < span[1] and span[2] == other[2] for other in others)
    for one in counts:
        if wanted:
            one.expected, one.found = one.expected + 1, one.found + hit
        else:
            one.predicted, one.right = one.predicted + 1, one.right + hit


def expected_spans(text: str, values: Iterable[Sequence[str]]) -> list[Span]:
    """Every occurrence of every planted value as a word of its own; one inside a longer planted value is part of that."""
    spans: list[Span] = []
    for entity, value in sorted({(entity, value) for entity, value in values}, key=lambda pair: -len(pair[1])):
        for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text):
            if not any(match.start() < end and start < match.end() for start, end, _ in spans):
                spans.append((match.start(), match.end(), entity))
    return spans


def _normalising(known: Truth, documents: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]], home: Home) -> dict[str, float]:
    ledger = _rows(home, "documents_ledger", ("day", "uri", "action"))
    if not documents or ledger is None:
        return {}
    refused = {(row["day"], _name(row["uri"])) for row in ledger if row["action"] in ("quarantined", "removed")}
    texts: dict[tuple[str, str], str] = {}
    for row in _rows(home, "documents", ("day", "uri", "text")) or []:
        texts[row["day"], _name(row["uri"])] = row["text"]
    files = [((day, _name(file["name"])), file) for day, file in known.broken]
    figures = _share("quarantine_recall", [at in refused for at, file in files if file["treatment"] == "quarantine"])
    figures |= _share("repair_recall", [file["expected"] in texts.get(at, "") for at, file in files if file["treatment"] == "repair"])
    spoken = [(known.documents[at]["language"], row["language"]) for at, rows in documents.items() for row in rows]
    return figures | _share("language_accuracy", [wanted == found for wanted, found in spoken if wanted])


def _filters(
    known: Truth,
    documents: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    kept: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
) -> dict[str, float]:
    """What was planted and did not pass the filters; a poisoned document may pass without its payload."""
    if not kept:
        return {}
    figures: dict[str, float] = {}
    for plant in ("toxic", "gibberish", "boilerplate"):
        figures |= _share(f"{plant}_recall", [at not in kept for at in known.planted(plant)])
    clean = [all(not carries(row["text"], known.documents[at]["payload"]) for row in kept.get(at, [])) for at in known.planted("poison")]
    figures |= _share("poison_recall", clean)
    return figures | _share("clean_kept", [at in kept for at in known.plain if at in documents])


def carries(text: str, payload: str) -> bool:
    """Whether `payload` is still in `text`, invisible characters between the letters or not."""
    return payload in text or _INVISIBLE.sub("", payload).lower() in _INVISIBLE.sub("", text).lower()


def _snapshot(config: SupportConfig, known: Truth, home: Home) -> dict[str, float]:
    """Deduplication and decontamination of the latest corpus snapshot."""
    try:
        snapshot = home.artifacts.named("corpus_snapshot")
    except MissingError:
        return {}
    clusters = pq.read_table(snapshot.file("clusters.parquet")).to_pylist()
    corpus = set(pq.read_table(snapshot.file("documents.parquet"), columns=["id"])["id"].to_pylist())
    reached = {row["id"]: row for row in clusters}
    rows = [row for row in _rows(home, "scrubbed_documents", _COLUMNS) or [] if row["id"] in reached]
    text = {row["id"]: row["text"] for row in rows}
    parts = {identity: shingles(value) for identity, value in text.items()}
    ids = {key: row["id"] for row in rows if (key := _key(row, known)) is not None}
    twins = [
        (ids[(_day(pair["copy"]), pair["copy"])], ids[(_day(pair["original"]), pair["original"])])
        for pair in known.pairs
        if _both(pair, ids)
    ]
    similar = [(a, b) for a, b in twins if jaccard(parts[a], parts[b]) >= SIMILAR]
    figures = _share("dedup_recall", [reached[a]["cluster_id"] == reached[b]["cluster_id"] for a, b in similar])
    removed = [row for row in clusters if row["reason"] in ("exact_duplicate", "near_duplicate") and row["id"] in parts]
    right = [row["kept_id"] in parts and jaccard(parts[row["id"]], parts[row["kept_id"]]) >= SIMILAR for row in removed]
    figures |= _share("dedup_precision", right)
    leaked = {ids[at] for at in known.planted("leak") if at in ids}
    figures |= _share("decontamination_recall", [identity not in corpus for identity in leaked])
    questions = [" ".join(_WORD.findall(row["question"].lower())) for rows in suites(config).values() for row in rows]
    flagged = [row["id"] for row in clusters if row["reason"] == "contaminated" and row["id"] in text]
    return figures | _share("decontamination_precision", [identity in leaked or _quotes(text[identity], questions) for identity in flagged])


_COLUMNS = ("day", "id", "uri", "external_id", "text")


def _keyed(home: Home, table: str, known: Truth) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of a table by day and key of the ground truth; rows of other origin are left out."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _rows(home, table, (*_COLUMNS, "language")) or []:
        key = _key(row, known)
        if key is not None:
            found.setdefault(key, []).append(row)
    return found


def _key(row: Mapping[str, Any], known: Truth) -> tuple[str, str] | None:
    stem = _name(row["uri"])
    return next(((row["day"], key) for key in (row["external_id"], stem) if (row["day"], key) in known.documents), None)


def _name(uri: str) -> str:
    """The stem of the file, which a uri keeps whether it keeps folder and suffix or not."""
    return uri.rsplit("/", 1)[-1].split(".")[0]


def _day(key: str) -> str:
    """The day in the key of a conversation, note or page."""
    return key[2:12]


def _both(pair: Mapping[str, Any], ids: Mapping[tuple[str, str], str]) -> bool:
    return all((_day(pair[name]), pair[name]) in ids for name in ("copy", "original"))


def _quotes(text: str, questions: Iterable[str]) -> bool:
    plain = " ".join(_WORD.findall(text.lower()))
    return any(question in plain for question in questions)


def _share(name: str, hits: Sequence[bool]) -> dict[str, float]:
    return {name: sum(hits) / len(hits)} if hits else {}


def _days(home: Home, table: str) -> list[str]:
    return list(home.lake.days(table))


def _rows(home: Home, table: str, columns: Sequence[str]) -> list[dict[str, Any]] | None:
    """All rows of a daily table, None when it has no day."""
    days = _days(home, table)
    return home.lake.read(table, days, columns).to_pylist() if days else None
