"""What runs by the clock (UTC). All start stopped: a code location that was merely opened does not start to work.

Curation of the finished day at 01:00, its monitoring at 01:30, and at 03:00 a retrain if the corpus has changed.
"""

from datetime import timedelta

import dagster as dg

from llm_pipeline.defs.jobs import daily_curation, monitoring_daily, retrain

UNDER_WAY = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@dg.schedule(name="daily_curation_schedule", job=daily_curation, cron_schedule="0 1 * * *", execution_timezone="UTC")
def daily_curation_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Curate the day that has ended."""
    return finished_day(context)


@dg.schedule(name="monitoring_schedule", job=monitoring_daily, cron_schedule="30 1 * * *", execution_timezone="UTC")
def monitoring_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Report on the traffic of the day that has ended."""
    return finished_day(context)


@dg.schedule(name="nightly_retrain", job=retrain, cron_schedule="0 3 * * *", execution_timezone="UTC")
def nightly_retrain(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Retrain when some day was curated since the last snapshot and no retrain is under way."""
    curated = newest(context.instance, "signatures")
    snapshot = newest(context.instance, "corpus_snapshot")
    if curated is None:
        return dg.SkipReason("no day has been curated yet")
    if snapshot is not None and curated < snapshot:
        return dg.SkipReason("nothing new: no day was curated since the last snapshot")
    if retrain_under_way(context.instance):
        return dg.SkipReason("a retrain is under way")
    return dg.RunRequest(run_key=f"nightly:{context.scheduled_execution_time:%Y-%m-%d}:{curated}", tags={"trigger": "nightly"})


def finished_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """A run of the daily partition before the scheduled time; both are in UTC."""
    day = f"{context.scheduled_execution_time - timedelta(days=1):%Y-%m-%d}"
    return dg.RunRequest(run_key=day, partition_key=day)


def newest(instance: dg.DagsterInstance, asset: str) -> int | None:
    """Storage id of the newest materialisation of an asset, over all partitions."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
    return records[0].storage_id if records else None


def retrain_under_way(instance: dg.DagsterInstance) -> bool:
    return bool(instance.get_run_records(dg.RunsFilter(job_name=retrain.name, statuses=UNDER_WAY), limit=1))


schedules = [daily_curation_schedule, monitoring_schedule, nightly_retrain]
