"""The data card of a corpus snapshot: where its text is from, under which licences, and what was taken out by which rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.curation.ledger import LEDGERS
from llm_pipeline.curation.tally import batches, tally
from llm_pipeline.governance.cards import Card, Section, mapping_rows
from llm_pipeline.store import Artifact, Home

KIND = "data_card"
_GROUPED = ("source", "licence", "kind", "language")
_RULED = ("stage", "rule", "action")
Groups = Counter[tuple[Any, ...]]
"""Documents by what `_GROUPED` names."""


def build_data_card(home: Home) -> Artifact:
    """The card of the newest corpus snapshot, as `data_card.md` and `data_card.html`."""
    snapshot = home.artifacts.named("corpus_snapshot")
    days = _days(snapshot)
    versions = {table: {day: home.lake.version(table, day) for day in days if day in home.lake.days(table)} for table in LEDGERS}

    def make(folder: Path) -> dict[str, Any]:
        card, info = data_card(home, snapshot, days)
        card.write(folder, KIND)
        return info

    return home.artifacts.build(KIND, {"snapshot": snapshot.id, "ledgers": versions}, make)


def data_card(home: Home, snapshot: Artifact, days: Sequence[str]) -> tuple[Card, dict[str, Any]]:
    groups = _groups(snapshot.file("documents.parquet"))
    reasons = tally(batches(snapshot.file("clusters.parquet"), "reason"), "reason")
    removed = {reason: count for (reason,), count in reasons.most_common() if reason != "kept"}
    sections = [
        Section(
            "What it is",
            [
                f"Corpus snapshot {snapshot.id}: {groups.total():,} documents of {len(days)} days, from {days[0]} to {days[-1]}."
                if days
                else f"Corpus snapshot {snapshot.id}: no documents."
            ],
            mapping_rows(dict(snapshot.inputs), "input", "value"),
        ),
        *_contents(groups),
        _rules(_ledger(home, days)),
        Section(
            "Left out of the snapshot",
            ["Duplicates of a kept document, and documents that contain an evaluation question."],
            [{"reason": reason, "documents": n} for reason, n in removed.items()],
        ),
        LIMITS,
    ]
    info = {
        "documents": groups.total(),
        "days": len(days),
        "sources": len({source for source, *_ in groups}),
        "left_out": sum(removed.values()),
    }
    return Card("Data card", sections), info


def corpus_card(documents: Path, ledger: Mapping[tuple[str, str, str], int]) -> Card:
    """The card of a corpus that `llm-pipeline curate` wrote: its documents, and by (stage, rule, action) what a rule touched."""
    groups = _groups(documents)
    about = Section("What it is", [f"{groups.total():,} documents; `ledger.parquet` names every record that is not among them, and why."])
    return Card("Data card", [about, *_contents(groups), _rules(ledger), LIMITS])


def _groups(documents: Path) -> Groups:
    """How many documents there are of each source, licence, kind and language."""
    return tally(batches(documents, *_GROUPED), *_GROUPED)


def _contents(groups: Groups) -> list[Section]:
    sources: Counter[tuple[Any, ...]] = Counter()
    languages: Counter[str] = Counter()
    for (*of, language), n in groups.items():
        sources[tuple(of)] += n
        languages[str(language)] += n
    rows = [{"source": s, "licence": lic, "kind": k, "documents": n} for (s, lic, k), n in sorted(sources.items(), key=_by_text)]
    return [
        Section("Sources and licences", rows=rows),
        Section("Languages", rows=[{"language": name, "documents": n} for name, n in languages.most_common()]),
    ]


def _rules(ledger: Mapping[tuple[str, str, str], int]) -> Section:
    rows = [{"stage": s, "rule": r, "action": a, "records": n} for (s, r, a), n in sorted(ledger.items(), key=_by_text)]
    text = "Every record that a rule touched, by reason code; private values are never kept."
    return Section("Removed, quarantined and changed", [text], rows)


LIMITS = Section(
    "Limits",
    [
        "Personal data is found by patterns and validators: names and free-form addresses without such a form may remain.",
        "Language and quality scores are those of small models; see the ledgers for what each rule decided.",
    ],
)


def _by_text(item: tuple[tuple[Any, ...], int]) -> tuple[str, ...]:
    return tuple(map(str, item[0]))


def _days(snapshot: Artifact) -> list[str]:
    return sorted(str(day) for (day,) in tally(batches(snapshot.file("clusters.parquet"), "day"), "day"))


def _ledger(home: Home, days: Sequence[str]) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for table in LEDGERS:
        there = [day for day in home.lake.days(table) if day in days]
        rules = tally((home.lake.read(table, [day], _RULED) for day in there), *_RULED)
        found.update({(str(stage), str(rule), str(action)): n for (stage, rule, action), n in rules.items()})
    return found
