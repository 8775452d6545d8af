"""Curation of generated days, stage by stage: CPU seconds and MB of text per CPU second (medians over days; imports not counted)."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.pii.policy import load_policy as load_pii
from llm_pipeline.curation.quality import filter_documents, load_policy
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.scrubbing import scrub_day
from llm_pipeline.curation.signatures import sign
from llm_pipeline.curation.sources import load_sources
from llm_pipeline.curation.support.bank import SupportConfig
from llm_pipeline.paths import DATA
from llm_pipeline.store import Home

T = TypeVar("T")


def main(days: int = 5) -> None:
    seconds: dict[str, list[float]] = {}
    sizes: list[float] = []

    def timed(stage: str, action: Callable[[], T]) -> T:
        started = time.process_time()
        result = action()
        seconds.setdefault(stage, []).append(time.process_time() - started)
        return result

    source = next(s for s in load_sources(DATA / "sources.yaml") if s.name == "support")
    policy, pii = load_policy(), load_pii()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        for day in SupportConfig().all_days[: days + 1]:
            raw = timed("generate and read", lambda day=day: read_source(source, home, day))  # type: ignore[misc]
            documents, _ = timed("normalise", lambda raw=raw, day=day: normalise(raw, day))  # type: ignore[misc]
            kept, _ = timed("filter", lambda d=documents, day=day: filter_documents(d, day, policy, {"support": ("en",)}))  # type: ignore[misc]
            scrubbed = timed("scrub", lambda k=kept, day=day: scrub_day(k, day, pii))[0]  # type: ignore[misc]
            timed("sign", lambda s=scrubbed: sign(s["id"].to_pylist(), s["text"].to_pylist()))  # type: ignore[misc]
            sizes.append(_megabytes(documents))
    table = Table("stage", "CPU s a day", "MB a CPU s", title=f"{days} days, {statistics.median(sizes):.2f} MB a day")
    for stage, values in seconds.items():
        median = statistics.median(values[1:])
        table.add_row(stage, f"{median:.3f}", f"{statistics.median(sizes) / median:.1f}")
    Console().print(table)


def _megabytes(documents: pa.Table) -> float:
    return sum(len(text.encode()) for text in documents["text"].to_pylist()) / 1e6


if __name__ == "__main__":
    main()
