"""What MLflow is told: one run per training with parameters, metrics by step, data versions; one version per candidate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPERIMENT = "fine-tuning"
REGISTERED_MODEL = "support-assistant"
METRICS = ("loss", "learning_rate", "grad_norm", "token_accuracy", "tokens_per_second")


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
    run_id: str = ""
    _client: Any = field(default=None, repr=False)

    def __call__(self, message: Mapping[str, Any]) -> None:
        if self._client is None:
            self._open()
        if message.get("event") == "progress":
            self._metrics({name: float(message[name]) for name in METRICS if name in message}, int(message["step"]))

    def finish(self, figures: Mapping[str, Any], artifacts: Path) -> str:
        """End the run with its last figures and its files; return its id."""
        if self._client is None:
            self._open()
        self._metrics({key: float(value) for key, value in figures.items() if isinstance(value, int | float)}, int(figures.get("steps", 0)))
        self._client.log_artifacts(self.run_id, str(artifacts))
        self._client.set_terminated(self.run_id, "FINISHED")
        return self.run_id

    def _open(self) -> None:
        from mlflow.exceptions import MlflowException

        self._client = client(self.uri)
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
        self.note.write_text(self.run_id, "utf-8")

    def _metrics(self, values: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(key, value, now, step) for key, value in values.items()])


def register(uri: str, source: Path, run_id: str, tags: Mapping[str, str], alias: str = "challenger") -> str:
    """Make `source` a version of the registered model, once per `candidate` tag, and point `alias` at it; return its number."""
    from mlflow.exceptions import MlflowException

    registry = client(uri)
    try:
        registry.create_registered_model(REGISTERED_MODEL, description="Fine-tuned models, each a standalone folder.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = registry.search_model_versions(f"name = '{REGISTERED_MODEL}'")
    known = [version for version in versions if version.tags.get("candidate") == tags["candidate"]]
    version = (
        known[0] if known else registry.create_model_version(REGISTERED_MODEL, source.as_uri(), run_id=run_id or None, tags=dict(tags))
    )
    registry.set_registered_model_alias(REGISTERED_MODEL, alias, version.version)
    return str(version.version)
