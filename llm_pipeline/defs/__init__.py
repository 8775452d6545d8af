"""The Dagster side: assets, checks, jobs, schedules and sensors. The only place, with definitions.py, that imports Dagster."""

import warnings

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)  # backfill policies, pools: used on purpose, pinned by the lock file
