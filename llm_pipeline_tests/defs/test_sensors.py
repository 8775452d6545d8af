from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from llm_pipeline.defs.jobs import retrain
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.schedules import daily_curation_schedule, monitoring_schedule, nightly_retrain
from llm_pipeline.defs.sensors import audit_run_failures, drift_retrain
from llm_pipeline.governance.audit import AuditLog
from llm_pipeline.store import Home


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def report(instance: dg.DagsterInstance, asset: str, day: str | None = None, **metadata: Any) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=day, metadata=metadata))


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    result = drift_retrain(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def start_retrain(instance: dg.DagsterInstance) -> None:
    instance.add_run(dg.DagsterRun(job_name=retrain.name, run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.STARTED))


def test_nothing_new(instance: dg.DagsterInstance) -> None:
    result = tick(instance)
    assert isinstance(result, dg.SkipReason)
    assert "nothing new" in str(result.skip_message)


def test_calm_reports_are_looked_at_once_and_start_nothing(instance: dg.DagsterInstance) -> None:
    report(instance, "drift_report", "2026-01-06", alarm=False)
    report(instance, "drift_report", "2026-01-07", alarm=False)
    result = tick(instance)
    assert isinstance(result, dg.SensorResult)
    assert not result.run_requests
    assert result.skip_reason is not None
    assert "no alarm in 2" in str(result.skip_reason.skip_message)
    assert isinstance(tick(instance, result.cursor), dg.SkipReason)


def test_an_alarm_asks_for_one_retrain_until_its_day(instance: dg.DagsterInstance) -> None:
    report(instance, "drift_report", "2026-01-07", alarm=False)
    report(instance, "drift_report", "2026-01-09", alarm=True)
    report(instance, "drift_report", "2026-01-08", alarm=True)
    result = tick(instance)
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or []
    assert request.run_config == {"ops": {"corpus_snapshot": {"config": {"until": "2026-01-09"}}}}
    assert request.tags["drift_days"] == "2026-01-08,2026-01-09"
    assert request.run_key is not None
    assert request.run_key.startswith("drift:")
    assert isinstance(tick(instance, result.cursor), dg.SkipReason)


def test_the_same_day_may_alarm_again(instance: dg.DagsterInstance) -> None:
    report(instance, "drift_report", "2026-01-09", alarm=True)
    first = tick(instance)
    assert isinstance(first, dg.SensorResult)
    report(instance, "drift_report", "2026-01-09", alarm=True)
    second = tick(instance, first.cursor)
    assert isinstance(second, dg.SensorResult)
    assert (first.run_requests or [])[0].run_key != (second.run_requests or [])[0].run_key


def test_an_alarm_waits_while_a_retrain_is_under_way(instance: dg.DagsterInstance) -> None:
    report(instance, "drift_report", "2026-01-09", alarm=True)
    start_retrain(instance)
    result = tick(instance)
    assert isinstance(result, dg.SkipReason)
    assert "under way" in str(result.skip_message)


def night(instance: dg.DagsterInstance) -> dg.RunRequest | dg.SkipReason:
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime(2026, 1, 15, 3, tzinfo=UTC))
    result = nightly_retrain(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result


def test_the_night_retrains_only_on_new_days(instance: dg.DagsterInstance) -> None:
    result = night(instance)
    assert isinstance(result, dg.SkipReason)
    assert "no day" in str(result.skip_message)
    report(instance, "signatures", "2026-01-14")
    request = night(instance)
    assert isinstance(request, dg.RunRequest)
    assert (request.run_key or "").startswith("nightly:2026-01-15:")
    report(instance, "corpus_snapshot")
    result = night(instance)
    assert isinstance(result, dg.SkipReason)
    assert "nothing new" in str(result.skip_message)


def test_the_night_waits_for_a_retrain_under_way(instance: dg.DagsterInstance) -> None:
    report(instance, "signatures", "2026-01-14")
    start_retrain(instance)
    assert isinstance(night(instance), dg.SkipReason)


@pytest.mark.parametrize(("schedule", "cron"), [(daily_curation_schedule, "0 1 * * *"), (monitoring_schedule, "30 1 * * *")])
def test_daily_schedules_take_the_finished_day(instance: dg.DagsterInstance, schedule: Any, cron: str) -> None:
    from llm_pipeline.definitions import defs

    repository = defs.get_repository_def()
    definition = repository.get_schedule_def(schedule.name)
    assert definition.cron_schedule == cron
    assert definition.default_status == dg.DefaultScheduleStatus.STOPPED
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 1, 15, 2, tzinfo=UTC), repository_def=repository
    )
    (request,) = definition.evaluate_tick(context).run_requests or []
    assert request.partition_key == "2026-01-14"


def test_a_failed_run_enters_the_audit_log(instance: dg.DagsterInstance, home: Home) -> None:
    @dg.op
    def broken() -> None:
        raise ValueError("no such day")

    @dg.job
    def some_job() -> None:
        broken()

    outcome = some_job.execute_in_process(instance=instance, raise_on_error=False)
    context = dg.build_run_status_sensor_context(
        sensor_name="audit_run_failures",
        dagster_instance=instance,
        dagster_run=outcome.dagster_run,
        dagster_event=outcome.get_run_failure_event(),
        resources={"home": HomeResource(root=str(home.root))},
    ).for_run_failure()
    audit_run_failures(context)
    (entry,) = AuditLog.of(home).entries()
    assert (entry["event"], entry["subject"], entry["detail"]["job"]) == ("run_failure", outcome.run_id, "some_job")
