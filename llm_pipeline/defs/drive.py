"""Running the graph's jobs from a script, as the daemon would, with live progress and a memory of what is already done.

A step's fingerprint covers its job, partition, configuration, the code, and the fingerprint of the step before it; a step
whose fingerprint succeeded before is not run again.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from llm_pipeline.errors import PipelineError, StoppedError
from llm_pipeline.paths import DATA, PROJECT
from llm_pipeline.store import Artifacts, Home, content_hash, file_hash, write_atomically

Say = Callable[[str], None]
"""Receives one line about what is going on: an asset that starts, is done, or reports from inside."""

OBSERVE_EVERY = 5.0
"""Seconds between two lines about an asset that reports from inside."""


def instance_folder(home: Home) -> Path:
    """The Dagster instance of a home folder, configured by the project's dagster.yaml."""
    folder = home.root / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROJECT / "dagster.yaml", folder / "dagster.yaml")
    return folder


def code_version() -> str:
    """Hash of everything that ships: code, recipes, prompts, policies, suites."""
    sources = sorted((PROJECT / "llm_pipeline").rglob("*.py")) + sorted((PROJECT / "llm_pipeline").rglob("*.yaml"))
    return content_hash(*[[str(p.relative_to(PROJECT)), file_hash(p)] for p in sources], file_hash(DATA))


class Driver:
    """Runs jobs of the code location one after the other in this process; `seconds` collects the time of each step."""

    def __init__(self, definitions: dg.Definitions, home: Home, say: Say) -> None:
        os.environ["DAGSTER_HOME"] = str(instance_folder(home))
        os.environ["LLM_PIPELINE_HOME"] = str(home.root)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)  # libraries that call one another by old names
        self.definitions, self.home, self.say = definitions, home, say
        self.instance = dg.DagsterInstance.get()
        self.skipped: list[str] = []
        self._observed = -OBSERVE_EVERY
        self._state_file = home.root / "demo_state.json"
        self._done: dict[str, Any] = json.loads(self._state_file.read_text()) if self._state_file.exists() else {}
        self._chain = content_hash(code_version(), *[file_hash(p) for p in [home.root / "sources.yaml"] if p.exists()])

    def step(self, name: str, action: Callable[[], Any], *, inputs: Any = None) -> Any:
        """Do `action` unless this very step succeeded before, and return its outcome (plain data), remembered or new."""
        self._chain = content_hash(self._chain, name, inputs)
        if self._done.get(name, {}).get("fingerprint") == self._chain:
            self.skipped.append(name)
            self.say(f"{name}: unchanged, skipped")
            return self._done[name]["outcome"]
        started = time.monotonic()
        outcome = action()
        seconds = round(time.monotonic() - started, 1)
        self._done[name] = {"fingerprint": self._chain, "outcome": outcome, "seconds": seconds, "peak_memory_mb": _peak_memory_mb()}
        write_atomically(self._state_file, json.dumps(self._done, indent=1))
        return outcome

    @property
    def seconds(self) -> dict[str, float]:
        """What each step took when it last ran."""
        return {name: step["seconds"] for name, step in self._done.items()}

    @property
    def peak_memory_mb(self) -> int:
        """Of the largest single process when the steps last ran: the graph itself or a training process."""
        return max((step["peak_memory_mb"] for step in self._done.values()), default=0)

    def job(self, job: str, *, name: str | None = None, day: str | None = None, config: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Run a job as a step; a failure raises the error of the asset that failed. The outcome: artefact ids by kind."""
        label = name or (f"{job} {day}" if day else job)
        return self.step(label, lambda: self._execute(job, day, config), inputs=config)

    def tick(self, sensor: str) -> list[dict[str, Any]]:
        """Evaluate a sensor once with its stored cursor, as the daemon does; the runs that it asks for: job, run_key, config."""
        definition = self.definitions.get_repository_def().get_sensor_def(sensor)
        cursor_file = self.home.root / "dagster" / f"{sensor}.cursor"
        cursor = cursor_file.read_text() if cursor_file.exists() else None
        with dg.build_sensor_context(instance=self.instance, cursor=cursor, definitions=self.definitions) as context:
            result = definition.evaluate_tick(context)
        if result.cursor is not None:
            write_atomically(cursor_file, result.cursor)
        for request in result.run_requests or []:
            self.say(f"sensor {sensor}: requests {request.job_name} ({request.run_key})")
        if not result.run_requests:
            self.say(f"sensor {sensor}: {result.skip_message or 'nothing new'}")
        return [
            {"job": r.job_name or definition.job_name, "run_key": r.run_key, "config": dict(r.run_config)}
            for r in result.run_requests or []
        ]

    def _execute(self, job: str, day: str | None, config: Mapping[str, Any] | None) -> dict[str, str]:
        """Run the job; the outcome is the id of the latest artefact of every kind after it."""
        run_id = str(uuid.uuid4())
        quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
        self.instance.add_event_listener(run_id, self._report)
        try:
            self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance, run_id=run_id, partition_key=day, run_config=quiet | dict(config or {})
            )
        except (KeyboardInterrupt, DagsterExecutionInterruptedError) as interrupt:
            raise StoppedError(f"{job} was interrupted; the same command goes on from here (run {run_id})") from interrupt
        except dg.Failure as failure:
            raise PipelineError(f"{job}{f' {day}' if day else ''}: {failure.description} (run {run_id}; `make ui` shows it)") from failure
        return self.home.artifacts.latest() | Artifacts(self.home.indexes).latest()

    def _report(self, entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None:
            return
        if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY and _interrupted(event.step_retry_data.error):
            raise KeyboardInterrupt  # Dagster retries interrupted steps; who stops the driver wants no second try
        if event.event_type == dg.DagsterEventType.STEP_START:
            self.say(f"{event.step_key} ...")
        elif event.event_type == dg.DagsterEventType.ASSET_OBSERVATION and time.monotonic() - self._observed >= OBSERVE_EVERY:
            self._observed = time.monotonic()
            metadata = event.asset_observation_data.asset_observation.metadata
            facts = ", ".join(f"{name} {_short(value.value)}" for name, value in metadata.items())
            self.say(f"{event.step_key}: {facts}")


def _peak_memory_mb() -> int:
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kilobytes // 1024


def _interrupted(error: Any) -> bool:
    """Whether a signal stands anywhere in the chain of causes of a serialised error."""
    while error is not None:
        if error.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
            return True
        error = error.cause or error.context
    return False


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
