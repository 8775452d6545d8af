"""The driver of the demo: steps are remembered, failures keep their words, and a signal ends it although Dagster would retry."""

import os
import signal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from llm_pipeline.defs.drive import Driver
from llm_pipeline.errors import PipelineError, StoppedError
from llm_pipeline.store import Home


def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asset: dg.AssetsDefinition) -> Driver:
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("LLM_PIPELINE_HOME", "")
    job = dg.define_asset_job("work", selection=[asset])
    return Driver(dg.Definitions(assets=[asset], jobs=[job]), Home(tmp_path), lambda line: None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_asset_that_would_be_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    tries: list[int] = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
    def slow() -> None:
        tries.append(number)
        os.kill(os.getpid(), number)
        signal.pause()

    with pytest.raises(StoppedError, match="goes on from here"):
        driver(tmp_path, monkeypatch, slow).job("work")
    assert len(tries) == 1


def test_an_unchanged_step_is_not_run_again_and_a_failed_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[bool] = []
    broken = True

    @dg.asset
    def work() -> dg.MaterializeResult[Any]:
        runs.append(broken)
        if broken:
            raise dg.Failure("the reason", allow_retries=False)
        return dg.MaterializeResult()

    with pytest.raises(PipelineError, match="the reason"):
        driver(tmp_path, monkeypatch, work).job("work")
    broken = False
    driver(tmp_path, monkeypatch, work).job("work")
    again = driver(tmp_path, monkeypatch, work)
    again.job("work")
    assert runs == [True, False]
    assert again.skipped == ["work"]
    assert again.peak_memory_mb > 50, "what the skipped steps took is remembered"
