"""Sources that this machine makes itself: the seeded bank and the documentation of its Python."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_pipeline.curation.connectors.landing import Landing
from llm_pipeline.curation.sources import Source, generator_config, spread
from llm_pipeline.store import Home


def land_bank(source: Source, home: Home, day: str) -> Path:
    generator: Any = importlib.import_module("llm_pipeline.curation.support.generator")
    config = generator_config(source)
    folder = home.landing / source.name / day
    if day in config.all_days:
        generator.generate_day(config, day, home.landing, home.root / "ground_truth")
        _date_files(folder, day)
    return folder


def _date_files(folder: Path, day: str) -> None:
    """Simulated documents arrive at midnight of their day, so that provenance is the same on every rerun."""
    midnight = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (midnight, midnight), follow_symlinks=False)


def land_python_docs(source: Source, home: Home, day: str) -> Path:
    """Write all days once (parsing the standard library takes seconds); concurrent days wait for the first."""
    from llm_pipeline.curation.python_docs import doc_strings

    landing = Landing.of(source, home)
    done = landing.root / ".complete"
    with landing.lock():
        if done.exists() and done.read_text() == str(source.limit):
            return landing.root / day
        docs = sorted(doc_strings(), key=lambda doc: hashlib.sha256(doc.name.encode()).digest())[: source.limit]
        by_day: dict[str, list[Mapping[str, str]]] = {}
        for doc in sorted(docs, key=lambda doc: doc.name):
            row = {"id": doc.name, "uri": f"python://{doc.name}", "kind": "doc", "title": doc.name, "text": doc.text}
            by_day.setdefault(spread(doc.name), []).append(row)
        for at, rows in by_day.items():
            _write_day(landing.root / at, at, rows)
        done.write_text(str(source.limit))
    return landing.root / day


def _write_day(folder: Path, day: str, rows: Sequence[Mapping[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "documentation.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    _date_files(folder, day)
