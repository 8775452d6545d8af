"""The launch reference: embedded questions of the period the first model was made for, kept fixed once it is drawn.

It stays fixed because statistics against different references cannot be compared: a new reference starts a new calibration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from llm_pipeline.curation.tally import batches
from llm_pipeline.errors import MissingError
from llm_pipeline.monitoring.drift import DEFAULT_RULE, DriftRule, Embed, Reference, pick_reference
from llm_pipeline.store import Artifact, Home, content_hash, read_jsonl, write_jsonl

KIND = "drift_reference"
LAUNCH = "launch"
FEWEST = 200
"""A corpus with fewer questions than this is no picture of traffic; the first days of traffic are used instead."""


def launch_reference(home: Home, embed: Embed, rule: DriftRule = DEFAULT_RULE) -> Artifact:
    """The pinned reference, drawn now when there is none: from the newest snapshot, else from the first day of traffic."""
    if home.artifacts.has(KIND, LAUNCH):
        return home.artifacts.named(KIND, LAUNCH)
    return rebase(home, embed, rule)


def rebase(home: Home, embed: Embed, rule: DriftRule = DEFAULT_RULE) -> Artifact:
    """Draw the reference anew and pin it; the drift report calibrates again from the days that come after."""
    texts, origin = _launch_texts(home, rule)
    return pin(home, texts, embed, origin, rule)


def pin(home: Home, texts: list[str], embed: Embed, origin: dict[str, Any], rule: DriftRule = DEFAULT_RULE) -> Artifact:
    """Make the given texts the launch reference."""
    chosen = pick_reference(texts, rule)

    def make(folder: Path) -> dict[str, Any]:
        np.save(folder / "vectors.npy", np.asarray(embed(chosen), dtype=np.float32), allow_pickle=False)
        write_jsonl(folder / "texts.jsonl", [{"text": text} for text in chosen])
        return {"texts": len(chosen), **origin}

    inputs = {"origin": origin, "texts": content_hash(chosen), "size": rule.reference_size, "seed": rule.seed}
    artifact = home.artifacts.build(KIND, inputs, make)
    home.artifacts.point(KIND, LAUNCH, artifact.id)
    return artifact


def load_reference(artifact: Artifact, rule: DriftRule = DEFAULT_RULE) -> Reference:
    return Reference.of(np.load(artifact.file("vectors.npy"), allow_pickle=False), rule)


def snapshot_questions(snapshot: Artifact) -> list[str]:
    """What users ask in the kept conversations of a corpus snapshot."""
    found = []
    for table in batches(snapshot.file("documents.parquet"), "kind", "messages"):
        for row in table.to_pylist():
            if row["kind"] == "conversation" and row["messages"]:
                found += [str(turn["content"]) for turn in json.loads(row["messages"]) if turn.get("role") == "user"]
    return found


def reference_texts(artifact: Artifact) -> list[str]:
    return [row["text"] for row in read_jsonl(artifact.file("texts.jsonl"))]


def _launch_texts(home: Home, rule: DriftRule) -> tuple[list[str], dict[str, Any]]:
    if home.artifacts.has("corpus_snapshot"):
        snapshot = home.artifacts.named("corpus_snapshot")
        texts = snapshot_questions(snapshot)
        if len(set(texts)) >= FEWEST:
            return texts, {"from": "corpus_snapshot", "id": snapshot.id}
    for day in home.lake.days("interactions"):
        rows = home.lake.read("interactions", [day], ["question"])
        if rows.num_rows >= rule.window:
            return [str(text) for text in rows["question"].to_pylist()], {"from": "interactions", "day": day}
    raise MissingError(
        f"no drift reference: expected a corpus_snapshot with at least {FEWEST} questions or a day of at least {rule.window} interactions"
    )
