"""Personal data found in unseen templates, beside Presidio's pattern recognisers on the same texts, and MB per CPU-second of both.

Presidio: every pattern recogniser it loads for English on a blank pipeline, scores of 0.3 and more; no model on either side. Names of
persons come from the lists that our gazetteer has, so a second figure withholds half of those lists (by hash) from the rules.

`python -m llm_pipeline_tests.benchmarks.bench_pii` prints F1 by type on the held-out templates (a hit is a span of the type that shares at
least half of its characters with the truth), then throughput on generated bank text and on documentation strings, alternating, medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from unittest.mock import patch
from zlib import crc32

import pyarrow as pa
import spacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.pii import finders, gazetteer, load_policy, people, places, scan_texts
from llm_pipeline.curation.python_docs import doc_strings
from llm_pipeline.curation.scrubbing import scrub_table
from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.curation.support.generator import make_day
from llm_pipeline_tests.benchmarks.pii_sentences import Example, examples

Found = tuple[int, int, str]
_PRESIDIO = {
    "US_PASSPORT": "PASSPORT", "UK_PASSPORT": "PASSPORT", "US_DRIVER_LICENSE": "DRIVER_LICENCE", "US_BANK_NUMBER": "BANK_ACCOUNT",
    "ABA_ROUTING_NUMBER": "BANK_ACCOUNT",
    "ES_NIF": "NATIONAL_ID", "ES_NIE": "NATIONAL_ID", "IT_FISCAL_CODE": "NATIONAL_ID", "PL_PESEL": "NATIONAL_ID",
    "FI_PERSONAL_IDENTITY_CODE": "NATIONAL_ID", "DATE_TIME": "", "URL": "",
}  # fmt: skip


def main(n: int = 4000) -> None:
    held_out = list(examples("held-out", n))
    texts = [example.text for example in held_out]
    peer = _presidio()
    halved = counts(held_out, _halved(texts))["PERSON"]
    systems: dict[str, Callable[[Sequence[str]], list[list[Found]]]] = {"ours": _ours, "presidio": lambda ts: [peer(t) for t in ts]}
    Console().print(_figures(held_out, {name: find(texts) for name, find in systems.items()}))
    Console().print(f"PERSON with half of the name lists withheld: F1 {f1(halved):.3f}")
    Console().print(_speeds(_corpora(), peer))


def _ours(texts: Sequence[str]) -> list[list[Found]]:
    found: list[list[Found]] = [[] for _ in texts]
    for span in scan_texts(texts, load_policy()):
        found[span.text].append((span.start, span.end, span.entity))
    return found


class _Blank(NlpEngine):  # type: ignore[misc]
    """Tokens without a model: what pattern recognisers need."""

    def __init__(self) -> None:
        self.nlp = spacy.blank("en")

    def load(self) -> None: ...

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        tokens = self.nlp(text)
        return NlpArtifacts([], tokens, [t.idx for t in tokens], [t.text.lower() for t in tokens], self, language)

    def process_batch(self, texts: Iterable[str], language: str, **_: Any) -> Iterable[tuple[str, NlpArtifacts]]:
        return ((text, self.process_text(text, language)) for text in texts)

    def is_stopword(self, word: str, language: str) -> bool:
        return bool(self.nlp.vocab[word].is_stop)

    def is_punct(self, word: str, language: str) -> bool:
        return bool(self.nlp.vocab[word].is_punct)

    def get_supported_entities(self) -> list[str]:
        return []

    def get_supported_languages(self) -> list[str]:
        return ["en"]


def _halved(texts: Sequence[str]) -> list[list[Found]]:
    """What our rules find when half of all names are on no list."""

    def half(locales: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
        first, last = (frozenset(word for word in listed if crc32(word.encode()) % 2) for listed in gazetteer.names(locales))
        return first, last

    with patch.object(people, "names", half), patch.object(places, "names", half):
        finders._finders.cache_clear()
        found = _ours(texts)
    finders._finders.cache_clear()
    return found


def _presidio() -> Callable[[str], list[Found]]:
    """All pattern recognisers that Presidio loads for English, on a blank spaCy pipeline."""
    os.environ["TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS"] = ""
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.recognizers = [r for r in registry.recognizers if hasattr(r, "patterns") or "Phone" in r.name]
    engine = AnalyzerEngine(registry=registry, nlp_engine=_Blank(), supported_languages=["en"])

    def find(text: str) -> list[Found]:
        return [(r.start, r.end, _PRESIDIO.get(r.entity_type, r.entity_type)) for r in engine.analyze(text, "en", score_threshold=0.3)]

    return find


def counts(truth: Sequence[Example], found: Sequence[Sequence[Found]]) -> dict[str, Counter[str]]:
    """Hits, misses and false alarms by type."""
    tally: dict[str, Counter[str]] = {}
    for example, spans in zip(truth, found, strict=True):
        left = [span for span in spans if span[2]]
        for start, end, entity in example.spans:
            mine = [s for s in left if s[2] == entity and 2 * (min(end, s[1]) - max(start, s[0])) >= max(end - start, s[1] - s[0])]
            tally.setdefault(entity, Counter())["hit" if mine else "missed"] += 1
            left = [s for s in left if s not in mine]
        for _, _, entity in left:
            tally.setdefault(entity, Counter())["false"] += 1
    return tally


def f1(tally: Counter[str]) -> float:
    return 2 * tally["hit"] / max(1, 2 * tally["hit"] + tally["missed"] + tally["false"])


def _structured(entities: Sequence[str]) -> list[str]:
    """Types that have a form of their own (names and addresses have none)."""
    return [entity for entity in entities if entity not in ("PERSON", "STREET_ADDRESS")]


def _sum(tally: dict[str, Counter[str]], entities: Sequence[str]) -> Counter[str]:
    return sum((tally[entity] for entity in entities if entity in tally), Counter())


def _figures(truth: Sequence[Example], found: dict[str, list[list[Found]]]) -> Table:
    tallies = {name: counts(truth, spans) for name, spans in found.items()}
    table = Table("type", "n", *(f"{name} P / R / F1" for name in tallies), title=f"held-out templates, {len(truth)} texts")
    types = sorted({entity for example in truth for _, _, entity in example.spans})
    known = [entity for entity in types if all(tally.get(entity, Counter())["hit"] for tally in tallies.values())]
    rows_of = {**{entity: [entity] for entity in types}, "structured, micro": types, "of types that both know": known}
    for entity, members in rows_of.items():
        rows = [_sum(tally, members if len(members) == 1 else _structured(members)) for tally in tallies.values()]
        cells = [
            f"{c['hit'] / max(1, c['hit'] + c['false']):.3f} / {c['hit'] / max(1, c['hit'] + c['missed']):.3f} / {f1(c):.3f}" for c in rows
        ]
        table.add_row(entity, str(rows[0]["hit"] + rows[0]["missed"]), *cells)
    return table


def _corpora() -> dict[str, list[str]]:
    bank = [document.text() for day in SupportConfig().all_days[:4] for document in make_day(SupportConfig(), day).documents]
    return {"documentation": [doc.text for doc in doc_strings()], "bank": bank}


def _speeds(corpora: dict[str, list[str]], peer: Callable[[str], list[Found]], rounds: int = 3) -> Table:
    policy, table = load_policy(), Table("text", "MB", "ours, whole scrub", "presidio, scan", "ratio", title="MB per CPU-second, medians")
    for name, texts in corpora.items():
        rows = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
        few = texts[:: max(1, len(texts) // 60)]
        ours, theirs = [], []
        scrub_table(rows.slice(0, 50), policy)
        for _ in range(rounds):
            ours.append(_cpu(lambda rows=rows: scrub_table(rows, policy)))  # type: ignore[misc]
            theirs.append(_cpu(lambda few=few: [peer(text) for text in few]))  # type: ignore[misc]
        speeds = _megabytes(texts) / statistics.median(ours), _megabytes(few) / statistics.median(theirs)
        table.add_row(name, f"{_megabytes(texts):.2f}", *(f"{speed:.2f}" for speed in speeds), f"{speeds[0] / speeds[1]:.0f}")
    return table


def _cpu(action: Callable[[], object]) -> float:
    begun = time.process_time()
    action()
    return time.process_time() - begun


def _megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


if __name__ == "__main__":
    main()
