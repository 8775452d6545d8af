"""The Dagster side: assets, checks, jobs, schedules and sensors. The only place, with definitions.py, that imports Dagster."""
