"""Our own logged questions and answers as text to learn from: only of those who agreed, and never what a guardrail stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.curation.connectors.landing import DayFiles, Landing
from llm_pipeline.curation.sources import Source
from llm_pipeline.records import Interaction
from llm_pipeline.store import Home


@dataclass(frozen=True)
class InteractionOptions:
    """Whose interactions may be learnt from; nobody's unless named."""

    keys: tuple[str, ...] = ()
    """API keys (by name) whose owners agreed for all their users."""
    users: tuple[str, ...] = ()
    """Users who agreed for themselves."""


def land(source: Source, home: Home, day: str) -> Path:
    """Write the agreed interactions of a day anew from the gateway's log, which only grows."""
    from llm_pipeline.monitoring.interactions import day_of, read_segments

    options = build(InteractionOptions, dict(source.options), f"source {source.name!r}: options")
    landing = Landing.of(source, home)
    with landing.lock():
        with DayFiles(landing, "interactions") as files:
            for item in read_segments(home.endpoint / "interactions").interactions:
                if day_of(item) == day and _agreed(item, options) and not item.guardrails and item.answer:
                    files.write(day, _row(source.name, item))
        if not files.rows:
            (landing.root / day / "interactions.jsonl").unlink(missing_ok=True)
    return landing.root / day


def _agreed(item: Interaction, options: InteractionOptions) -> bool:
    return item.key in options.keys or item.user in options.users


def _row(name: str, item: Interaction) -> Mapping[str, Any]:
    messages = [*item.messages, {"role": "assistant", "content": item.answer}]
    return {"id": item.id, "uri": f"{name}://{item.id}", "kind": "conversation", "messages": messages}
