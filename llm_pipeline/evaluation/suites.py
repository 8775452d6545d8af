"""The evaluation suites of an artefact: which there are, what kind each is, and which of them counts on a given day."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_pipeline.errors import ConfigError, InputError, near
from llm_pipeline.store import Artifact

REQUIRED = ("id", "question", "answer")


@dataclass(frozen=True)
class Suite:
    """Questions with their expected answers; `valid_from` is the first day on which these answers are true, if that matters."""

    name: str
    rows: tuple[Mapping[str, Any], ...]
    valid_from: str | None = None

    @property
    def kind(self) -> str:
        """`refusal` when every question should be refused, else `fact`."""
        return "refusal" if self.rows and all(row.get("kind") == "refusal" for row in self.rows) else "fact"

    def sample(self, limit: int) -> Suite:
        """At most `limit` rows, the same ones whatever the order of the file."""
        if len(self.rows) <= limit:
            return self
        chosen = {str(row["id"]) for row in sorted(self.rows, key=_lottery)[:limit]}
        return Suite(self.name, tuple(row for row in self.rows if str(row["id"]) in chosen), self.valid_from)


def _lottery(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{row['id']}\n{row['question']}".encode()).hexdigest()


def load_suites(artifact: Artifact) -> dict[str, Suite]:
    """All suites of an `evaluation_suites` artefact by name; a row without question or answer is an error."""
    index = _index(artifact)
    suites = {}
    for path in sorted(artifact.path.glob("*.jsonl")):
        rows = artifact.jsonl(path.name)
        for number, row in enumerate(rows, 1):
            missing = [name for name in REQUIRED if row.get(name) is None]
            if missing:
                raise InputError(f"{path}:{number}: expected the keys {', '.join(REQUIRED)}, missing {', '.join(missing)}")
        suites[path.stem] = Suite(path.stem, tuple(rows), index.get(path.stem, {}).get("valid_from"))
    return suites


def _index(artifact: Artifact) -> dict[str, Mapping[str, Any]]:
    if not (artifact.path / "suites.json").exists():
        return {}
    content = artifact.json("suites.json")
    entries = content.get("suites", content) if isinstance(content, Mapping) else content
    if isinstance(entries, Sequence):
        entries = {entry["name"]: entry for entry in entries if isinstance(entry, Mapping) and "name" in entry}
    return {name: entry for name, entry in entries.items() if isinstance(entry, Mapping)}


def primary_suite(suites: Mapping[str, Suite], wanted: str, until: str | None) -> str:
    """`wanted`, or with an empty one the suite of facts that became valid last, not after the day `until`.

    Without any `valid_from`: the suite `facts`, else the largest suite of facts.
    """
    facts = {name: suite for name, suite in suites.items() if suite.kind == "fact" and suite.rows}
    if wanted:
        if wanted not in suites:
            raise ConfigError(f"primary suite {wanted!r}{near(wanted, suites)}")
        return wanted
    if not facts:
        raise InputError(f"no suite of facts to decide by; there are: {', '.join(suites) or 'none'}")
    dated = {name: suite.valid_from for name, suite in facts.items() if suite.valid_from and (until is None or suite.valid_from <= until)}
    if dated:
        return max(dated, key=lambda name: (dated[name], len(facts[name].rows), name))
    return "facts" if "facts" in facts else max(facts, key=lambda name: (len(facts[name].rows), name))
