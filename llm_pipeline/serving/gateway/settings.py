"""The settings of a gateway process: limits, the interaction log, telemetry (`gateway.yaml` in the endpoint's folder, or the file of a
gateway that runs alone)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llm_pipeline.config import load
from llm_pipeline.serving.gateway.upstream import Upstream
from llm_pipeline.serving.observability.interactions import LogSettings
from llm_pipeline.serving.observability.telemetry import TelemetrySettings
from llm_pipeline.serving.protection.limits import Protection

FILE = "gateway.yaml"


@dataclass(frozen=True)
class GatewaySettings:
    """Every part has defaults that are good for one machine."""

    protection: Protection = field(default_factory=Protection)
    interactions: LogSettings = field(default_factory=LogSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    cache_bytes: int = 64 << 20
    """Memory of the answer cache; which answers it keeps is a release's setting."""
    embedder: str | None = None
    """Folder of the embedding model behind /v1/embeddings; without one it is that of the release's index."""

    @property
    def embedding_upstream(self) -> Upstream | None:
        """Where /v1/embeddings is passed on to, instead."""
        return None


def load_settings(folder: Path) -> GatewaySettings:
    """The settings of an endpoint; defaults where its folder has no file."""
    path = folder / FILE
    return load(GatewaySettings, path) if path.exists() else GatewaySettings()
