"""What is known of a rollout: its interactions, and what users and judges said of them, read as they are logged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.serving.observability.interactions import mark, rows_since
from llm_pipeline.serving.traffic.canary import Monitor

LOGS: dict[str, Literal["feedback", "judge"]] = {"feedback": "feedback", "judgements": "judge"}
"""Folder of JSON lines in the endpoint's folder -> metric. A judgement is {"interaction_id": text, "score": 0 to 1}."""

Marks = dict[str, dict[str, int]]


def marks_now(folder: Path) -> Marks:
    """Where every log ends now."""
    return {name: mark(folder / name) for name in ("interactions", *LOGS)}


class Watch:
    """Feeds a monitor with what was logged since the marks."""

    def __init__(self, folder: Path, monitor: Monitor, marks: Mapping[str, Mapping[str, int]]) -> None:
        self.monitor, self._folder = monitor, folder
        self._marks: Marks = {name: dict(marks.get(name, {})) for name in ("interactions", *LOGS)}

    def feed(self, share: float) -> bool:
        """Read on; whether there was anything new."""
        new = False
        for row in rows_since(self._folder / "interactions", self._marks["interactions"]):
            self.monitor.add(row, share)
            new = True
        for name, metric in LOGS.items():
            for opinion in rows_since(self._folder / name, self._marks[name]):
                self.monitor.add_opinion(metric, opinion)
                new = True
        return new

    def evidence(self) -> dict[str, Any]:
        return self.monitor.summary()
