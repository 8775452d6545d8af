"""The daily drift report: one row per window, judged against the calm windows of earlier days."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llm_pipeline.monitoring.drift import DEFAULT_RULE, DriftRule, Embed, Past, Window, drift_windows
from llm_pipeline.monitoring.reference import launch_reference, load_reference
from llm_pipeline.store import Home

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "drift_report"
_COLUMNS: list[tuple[str, Any]] = [
    ("window", pa.int64()),
    ("n", pa.int64()),
    ("novelty", pa.float64()),
    ("mmd", pa.float64()),
    ("novelty_z", pa.float64()),
    ("mmd_z", pa.float64()),
    ("cusum", pa.float64()),
    ("alarm", pa.bool_()),
    ("status", pa.string()),
    ("farthest", pa.string()),
    ("reference", pa.string()),
]
SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class DriftDay:
    """What one day's report says; `rows` go into the table."""

    day: str
    rows: pa.Table
    windows: list[Window]
    past: int
    """Calm windows of earlier days that the thresholds came from."""
    reference: str

    @property
    def alarm(self) -> bool:
        return any(window.alarm for window in self.windows)

    @property
    def status(self) -> str:
        """The gravest status of the day's windows; `no_traffic` when there are none."""
        found = {window.status for window in self.windows}
        return next((status for status in ("alarm", "calm", "calibrating") if status in found), "no_traffic")

    @property
    def farthest(self) -> list[str]:
        """The texts least like the reference in the windows that alarmed."""
        return list(dict.fromkeys(text for window in self.windows if window.alarm for text in window.farthest))


def drift_day(home: Home, day: str, embed: Embed, rule: DriftRule = DEFAULT_RULE) -> DriftDay:
    """Judge the questions of `day` by its `interactions` and the `drift_report` of earlier days; writes nothing but the reference."""
    reference = launch_reference(home, embed, rule)
    questions = [str(text) for text in home.lake.read("interactions", [day], ["question"])["question"].to_pylist()]
    rows = past_rows(home, day, reference.id)
    past = Past.of(rows, rule)
    if reference.info.get("day") == day:
        questions = []  # a day cannot be judged against itself
    judged = drift_windows(questions, load_reference(reference, rule), embed, past, rule)
    table = pa.Table.from_pylist([_row(window, reference.id) for window in judged], schema=SCHEMA)
    return DriftDay(day, table, judged, len(past.novelty), reference.id)


def past_rows(home: Home, before: str, reference: str) -> list[dict[str, Any]]:
    """The windows of days before `before`, oldest first, that were judged against the same reference."""
    days = [day for day in home.lake.days(TABLE) if day < before]
    rows = home.lake.read(TABLE, days).to_pylist() if days else []
    return [row for row in rows if row["reference"] == reference]


def drift_figure(rows: list[dict[str, Any]], rule: DriftRule = DEFAULT_RULE) -> Figure:
    """Both z-scores and the CUSUM over windows, with the alarm lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    axes = figure.subplots()
    for name, label in (("novelty_z", "kNN novelty z"), ("mmd_z", "MMD z"), ("cusum", "CUSUM")):
        values = [float("nan") if row[name] is None or row["novelty_z"] is None else row[name] for row in rows]
        axes.plot(range(len(rows)), values, marker="o", markersize=3, label=label)
    axes.axhline(rule.z_alarm, color="red", linestyle="--", linewidth=1, label=f"alarm at z > {rule.z_alarm:g}")
    starts = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1]["day"] != row["day"]]
    axes.set_xticks(starts, [rows[i]["day"][5:] for i in starts], rotation=60, fontsize=7)
    axes.set_yscale("symlog", linthresh=4)
    axes.set_ylabel("standard deviations")
    axes.legend(fontsize=7)
    return figure


def _row(window: Window, reference: str) -> dict[str, Any]:
    return {
        "window": window.window,
        "n": window.n,
        "novelty": window.novelty,
        "mmd": window.mmd,
        "novelty_z": window.novelty_z,
        "mmd_z": window.mmd_z,
        "cusum": window.cusum,
        "alarm": window.alarm,
        "status": window.status,
        "farthest": json.dumps(window.farthest, ensure_ascii=False),
        "reference": reference,
    }
