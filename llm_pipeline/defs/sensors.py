"""What runs because something happened: drift asks for a retrain, and failed runs enter the audit log."""

import dagster as dg

from llm_pipeline.defs.jobs import retrain
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.schedules import retrain_under_way
from llm_pipeline.governance.audit import AuditLog

BATCH = 200


@dg.sensor(name="drift_retrain", job=retrain, minimum_interval_seconds=60)
def drift_retrain(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Retrain up to the newest day whose drift report alarmed since the last look; one run however many days alarmed.

    The cursor is the storage id of the last materialisation of `drift_report` that was looked at. While a retrain is under way
    nothing is looked at, so an alarm is not lost.
    """
    seen = int(context.cursor) if context.cursor else None
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("drift_report"), after_storage_id=seen), limit=BATCH, ascending=True
    ).records
    if not records:
        return dg.SkipReason("nothing new: no drift report since the last look")
    if retrain_under_way(context.instance):
        return dg.SkipReason("a retrain is under way; drift reports are looked at when it has ended")
    cursor = str(records[-1].storage_id)
    alarms = [record for record in records if _alarmed(record)]
    if not alarms:
        return dg.SensorResult(skip_reason=dg.SkipReason(f"no alarm in {len(records)} new drift reports"), cursor=cursor)
    last = max(alarms, key=lambda record: (record.partition_key or "", record.storage_id))
    request = dg.RunRequest(
        run_key=f"drift:{last.storage_id}",
        run_config={"ops": {"corpus_snapshot": {"config": {"until": last.partition_key}}}},
        tags={"trigger": "drift", "drift_days": ",".join(sorted({record.partition_key or "" for record in alarms}))},
    )
    return dg.SensorResult(run_requests=[request], cursor=cursor)


@dg.run_failure_sensor(name="audit_run_failures", default_status=dg.DefaultSensorStatus.RUNNING)
def audit_run_failures(context: dg.RunFailureSensorContext, home: HomeResource) -> None:
    """Write every failed run into the audit log."""
    run = context.dagster_run
    detail = {"job": run.job_name, "partition": run.tags.get("dagster/partition"), "error": context.failure_event.message}
    AuditLog.of(home.open()).append("run_failure", run.run_id, detail)


def _alarmed(record: dg.EventLogRecord) -> bool:
    materialization = record.asset_materialization
    value = materialization.metadata.get("alarm") if materialization else None
    return value is not None and value.value is True


sensors = [drift_retrain, audit_run_failures]
