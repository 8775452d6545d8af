"""The story of the demo: a bank's first week, a model for it, customers, a world that shifts, and the loop that repairs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from llm_pipeline.demo.progress import Watch
from llm_pipeline.demo.sources import declare_sources, support_config
from llm_pipeline.demo.summary import closing_words, summarise, summary_table
from llm_pipeline.errors import EndpointError
from llm_pipeline.store import Home, write_atomically

FIRST_DAY, DAYS, SHIFT = date(2026, 1, 1), 14, 7
REQUESTS = (600,) * 5 + (450,) * 2 + (300,) * 7
"""Simulated requests a day: five days that calibrate the drift thresholds (20 windows of 150), two more calm ones, seven shifted."""


def run_demo(root: Path, source: str | None, *, seed: int | None = None, as_json: bool = False) -> None:
    """Run the whole life cycle under `root`; unchanged steps are skipped. Raises the error of the first asset that fails."""
    home = Home(root)
    root.mkdir(parents=True, exist_ok=True)
    declare_sources(home, source, seed)
    console = Console(stderr=as_json, width=None if sys.stderr.isatty() else 160)
    console.print(f"llm_pipeline demo, everything is made in {root}", highlight=False)
    with Watch(console, total=3 * DAYS + 5) as watch:
        story = Story(home, watch)
        story.tell()
    summary = summarise(home, story.driver.seconds, story.outcomes, story.driver.peak_memory_mb)
    write_atomically(root / "demo_summary.json", json.dumps(summary, indent=1, sort_keys=True))
    if as_json:
        print(json.dumps(summary))
        return
    console.print(summary_table(home, summary))
    console.print(closing_words(home, story.driver.skipped), markup=False, highlight=False, soft_wrap=True)


class Story:
    """The steps in their order: jobs of the code location, and what reaches it from outside (customers, the clock)."""

    def __init__(self, home: Home, watch: Watch) -> None:
        watch.begin("loading")
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1", "LLM_PIPELINE_HOME": str(home.root)}
        from llm_pipeline.definitions import defs
        from llm_pipeline.defs.drive import Driver

        self.home, self.watch, self.support = home, watch, support_config(home)
        self.driver = Driver(defs, home, watch.say)
        self.days = [str(FIRST_DAY + timedelta(days=i)) for i in range(DAYS)]
        self.outcomes: dict[str, Any] = {}

    def tell(self) -> None:
        before, after = self.days[:SHIFT], self.days[SHIFT:]
        for day in before:
            self._curate(day)
        self._do("first model", 3, lambda: self.driver.job("retrain", name="first model", config=_until(before[-1])))
        self._customers(before)
        if self.outcomes[f"drift sensor {before[-1]}"]:
            self.watch.say("the drift sensor fired on calm days: a false alarm, counted in the summary")
        for day in after:
            self._curate(day)
        self._do("refresh_index", 1, lambda: self.driver.job("refresh_index"))
        self._customers(after)
        requests = self.outcomes[f"drift sensor {after[-1]}"]
        if not requests:
            raise EndpointError("the drift sensor asked for no retrain on the shifted days: see the asset drift_report")
        self._do("retrain after drift", 1, lambda: self.driver.job("retrain", name="retrain after drift", config=requests[-1]["config"]))

    def _curate(self, day: str) -> None:
        self._do(f"daily_curation {day}", 1, lambda: self.driver.job("daily_curation", day=day))

    def _customers(self, days: list[str]) -> None:
        """Customers talk to the endpoint; each day's log becomes assets; then the drift sensor looks at what is new."""
        for day in days:
            self._do(f"customers {day}", 1, lambda day=day: self.driver.step(f"customers {day}", lambda: self._talk(day)))  # type: ignore[misc]
            self._do(f"monitoring_daily {day}", 1, lambda day=day: self.driver.job("monitoring_daily", day=day))  # type: ignore[misc]
        name = f"drift sensor {days[-1]}"
        self._do(name, 0, lambda: self.driver.step(name, lambda: self.driver.tick("drift_retrain")))

    def _talk(self, day: str) -> dict[str, int]:
        from llm_pipeline.curation.support.customers import customer_messages
        from llm_pipeline.demo.traffic import ask_all
        from llm_pipeline.serving.supervision.client import ensure_up

        endpoint = ensure_up(self.home)
        customers = customer_messages(self.support, day, REQUESTS[self.days.index(day)])
        result = ask_all(
            endpoint.url,
            endpoint.simulate_key,
            day,
            customers,
            progress=lambda n: self.watch.say(f"{n} of {len(customers)} questions asked"),
        )
        return {"answered": result.answered, "right": result.right, "failed": result.failed}

    def _do(self, name: str, weight: int, action: Callable[[], Any]) -> None:
        self.watch.begin(name)
        skipped = len(self.driver.skipped)
        self.outcomes[name] = action()
        ended = "unchanged" if len(self.driver.skipped) > skipped else f"{self.driver.seconds[name]:.0f} s"
        self.watch.done(f"{name}: {ended}", weight)


def _until(day: str) -> dict[str, Any]:
    return {"ops": {"corpus_snapshot": {"config": {"until": day}}}}
