"""The one partitioning of the graph: calendar days."""

import dagster as dg

FIRST_DAY = "2026-01-01"
daily = dg.DailyPartitionsDefinition(start_date=FIRST_DAY)
