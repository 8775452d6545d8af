"""Evaluation suites: questions with their answers, the bank's own and those that a user brings, as one artefact."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_pipeline.curation.readers import read_file, suite_files
from llm_pipeline.curation.sources import Source, generator_config
from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.errors import InputError
from llm_pipeline.store import Artifact, Home, content_hash, read_jsonl, write_atomically, write_jsonl

LIMIT = 1500
VERSION = 1
Row = dict[str, Any]


def build_suites(home: Home, sources: Sequence[Source], limit: int = LIMIT) -> Artifact:
    """Gather every suite of `sources` (at most `limit` rows each) into an `evaluation_suites` artefact: one file per suite and an index."""
    suites: dict[str, list[Row]] = {}
    valid_from: dict[str, str] = {}
    for source in sources:
        for name, rows, since in _of_source(home, source):
            unique = name if name not in suites else f"{source.name}_{name}"
            suites[unique] = rows[:limit]
            if since:
                valid_from[unique] = since
    hashes = {name: content_hash(rows) for name, rows in suites.items()}

    def make(folder: Path) -> Mapping[str, Any]:
        index = {
            name: {"rows": len(rows), "hash": hashes[name], "valid_from": valid_from.get(name), "kinds": _kinds(rows)}
            for name, rows in suites.items()
        }
        for name, rows in suites.items():
            write_jsonl(folder / f"{name}.jsonl", rows)
        write_atomically(folder / "suites.json", json.dumps(index, indent=1, sort_keys=True))
        return {"suites": {name: len(rows) for name, rows in suites.items()}}

    return home.artifacts.build("evaluation_suites", {"version": VERSION, "suites": hashes, "valid_from": valid_from}, make)


def load_suite_rows(artifact: Artifact) -> dict[str, list[Row]]:
    """All rows of an `evaluation_suites` artefact by suite."""
    return {name: artifact.jsonl(f"{name}.jsonl") for name in sorted(artifact.json("suites.json"))}


def _of_source(home: Home, source: Source) -> list[tuple[str, list[Row], str | None]]:
    """(name, rows, first day on which the answers are true) of each suite."""
    if source.kind == "generator":
        return _generated(home, source)
    return [(re.sub(r"\W+", "_", path.name.split(".")[0]), _read(path), None) for path in suite_files(source, home)]


def _generated(home: Home, source: Source) -> list[tuple[str, list[Row], str | None]]:
    from llm_pipeline.curation.support.suites import write_suites

    config = generator_config(source)
    write_suites(config, home.landing)
    since = {"facts": config.first_day, "facts_after": config.shift_date, "shifted": config.shift_date}
    paths = sorted((home.landing / "support" / "suites").glob("*.jsonl"))
    return [(path.stem, [_row(row, path, i) for i, row in enumerate(read_jsonl(path))], since.get(path.stem)) for path in paths]


def _read(path: Path) -> list[Row]:
    """Rows of a jsonl, csv or parquet file (packed or not) with columns question and answer."""
    rows = []
    for number, record in enumerate(read_file(path, path.parent, suites=True)):
        if record.problem:
            raise InputError(f"{path}: row {number}: {record.problem}")
        rows.append(_row(json.loads(record.content), path, number))
    return rows


def _row(row: Mapping[str, Any], path: Path, number: int) -> Row:
    """One row in the common form: {id, question, answer, kind, relevant}."""
    question, answer = str(row.get("question") or "").strip(), str(row.get("answer") or "").strip()
    if not question or not answer:
        raise InputError(f"{path}: row {number}: expected a question and an answer, received the keys {sorted(row)}")
    passage = row.get("passage_id")
    relevant = row.get("relevant")
    return {
        "id": str(row["id"]) if row.get("id") not in (None, "") else f"{path.name.split('.')[0]}-{number}",
        "question": question,
        "answer": answer,
        "kind": row.get("kind") or ("refusal" if answer == REFUSAL else "fact"),
        "relevant": [str(item) for item in relevant] if isinstance(relevant, list) else [str(passage)] if passage is not None else [],
    }


def _kinds(rows: Sequence[Row]) -> dict[str, int]:
    kinds = [row["kind"] for row in rows]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
