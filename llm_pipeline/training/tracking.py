"""What MLflow is told: one run per training with parameters, metrics, the machine's load and data; one version per candidate.

Lineage goes both ways: a model version names its run, the run its data; and from data the runs and models are found again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_pipeline.errors import MissingError
from llm_pipeline.training.provenance import tokenizer_versions

EXPERIMENT = "fine-tuning"
REGISTERED_MODEL = "support-assistant"
METRICS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "token_accuracy",
    "tokens_per_second",
    "peak_memory_megabytes",
    "device_hours",
    "cost",
    "validation_loss",
)
SAMPLING_SECONDS = 5.0


@dataclass(frozen=True)
class Data:
    """Rows that a run read: `context` is their role in it, `version` the id of their artefact."""

    context: str
    name: str
    version: str
    source: Path


def client(uri: str) -> Any:
    """An MLflow client without telemetry (the import takes seconds, so it is not at the top)."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    import logging

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    import mlflow

    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


@dataclass
class Tracker:
    """One MLflow run, opened at the first message; a resumed training goes on in the run whose id `note` holds."""

    uri: str
    note: Path
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    data: Sequence[Data] = ()
    run_id: str = ""
    _client: Any = field(default=None, repr=False)
    _monitor: Any = field(default=None, repr=False)

    def __call__(self, message: Mapping[str, Any]) -> None:
        if self._client is None:
            self._open()
        if message.get("event") in ("progress", "validation"):
            self._metrics({name: float(message[name]) for name in METRICS if name in message}, int(message["step"]))

    def finish(self, figures: Mapping[str, Any], artifacts: Path) -> str:
        """End the run with its last figures and its files; return its id."""
        if self._client is None:
            self._open()
        self._metrics({key: float(value) for key, value in figures.items() if isinstance(value, int | float)}, int(figures.get("steps", 0)))
        self._client.log_artifacts(self.run_id, str(artifacts))
        self.close("FINISHED")
        return self.run_id

    def close(self, state: str) -> None:
        """Stop watching the machine and give the run its last state: FINISHED, FAILED or KILLED."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        if self._client is not None:
            self._client.set_terminated(self.run_id, state)

    def _open(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._client = client(self.uri)
        self._find_or_create()
        self._monitor = SystemMetricsMonitor(self.run_id, sampling_interval=SAMPLING_SECONDS, resume_logging=True, tracking_uri=self.uri)
        self._monitor.start()

    def _find_or_create(self) -> None:
        from mlflow.exceptions import MlflowException

        if self.note.exists():
            self.run_id = self.note.read_text("utf-8")
            try:
                self._client.update_run(self.run_id, status="RUNNING")
                return
            except MlflowException:
                self.run_id = ""
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        store = Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts"
        identity = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT, artifact_location=store.as_uri())
        self.run_id = self._client.create_run(identity, tags=dict(self.tags)).info.run_id
        for key, value in self.params.items():
            self._client.log_param(self.run_id, key, value)
        self._client.log_inputs(self.run_id, datasets=[_input(data) for data in self.data])
        self.note.write_text(self.run_id, "utf-8")

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])


def _input(data: Data) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": data.source.as_uri()})
    return DatasetInput(Dataset(data.name, data.version, "local", source), tags=[InputTag("mlflow.data.context", data.context)])


def runs_on(uri: str, version: str) -> list[str]:
    """The ids of all runs that read the data of this version, newest first."""
    tracking = client(uri)
    experiments = [experiment.experiment_id for experiment in tracking.search_experiments()]
    return [run.info.run_id for run in tracking.search_runs(experiments, filter_string=f"dataset.digest = '{version}'")]


def lineage(uri: str, of: str) -> dict[str, Any]:
    """Data, runs and model versions that belong to `of`: a version of data, a run id, or a number or alias of the registered model."""
    from mlflow.exceptions import MlflowException

    tracking = client(uri)
    runs = runs_on(uri, of)
    if not runs:
        runs = [_run_of(tracking, of)]
    data: dict[str, dict[str, str]] = {}
    models: list[dict[str, Any]] = []
    for run_id in runs:
        try:
            run = tracking.get_run(run_id)
        except MlflowException:
            raise MissingError(f"lineage of {of!r}: no data version, run or model version of that name in {uri}") from None
        for given in run.inputs.dataset_inputs:
            data[given.dataset.digest] = {"name": given.dataset.name, "role": next((tag.value for tag in given.tags), "")}
        for version in tracking.search_model_versions(f"run_id = '{run_id}'"):
            full = tracking.get_model_version(version.name, version.version)
            models.append({"name": full.name, "version": int(full.version), "aliases": list(full.aliases), "run": run_id})
    return {"runs": runs, "data": data, "models": models}


def _run_of(tracking: Any, of: str) -> str:
    """The run behind a number or alias of the registered model; otherwise `of` itself."""
    from mlflow.exceptions import MlflowException

    for find in (tracking.get_model_version, tracking.get_model_version_by_alias):
        with contextlib.suppress(MlflowException):
            return str(find(REGISTERED_MODEL, of).run_id)
    return of


def register(uri: str, source: Path, run_id: str, tags: Mapping[str, str], alias: str = "challenger") -> str:
    """Make `source` a version of the registered model, once per `candidate` tag, and point `alias` at it; return its number."""
    from mlflow.exceptions import MlflowException

    registry = client(uri)
    try:
        registry.create_registered_model(REGISTERED_MODEL, description="Fine-tuned models, each a standalone folder.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {**tags, **{key: value for key, value in tokenizer_versions(source).items() if value}}
    versions = registry.search_model_versions(f"name = '{REGISTERED_MODEL}'")
    known = [version for version in versions if version.tags.get("candidate") == tags["candidate"]]
    version = (
        known[0] if known else registry.create_model_version(REGISTERED_MODEL, source.as_uri(), run_id=run_id or None, tags=dict(tags))
    )
    registry.set_registered_model_alias(REGISTERED_MODEL, alias, version.version)
    return str(version.version)
