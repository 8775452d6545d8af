"""The gateway alone, in front of any OpenAI-compatible servers: one YAML file says which, and what each model name means.

It keeps keys, limits, guardrails and interactions in a folder of its own, as the managed gateway does in the endpoint's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_pipeline.config import build, load_yaml
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.paths import DATA
from llm_pipeline.prompts import Prompt, find_file
from llm_pipeline.serving.cache.answers import cache_settings
from llm_pipeline.serving.gateway.settings import GatewaySettings
from llm_pipeline.serving.gateway.upstream import Upstream
from llm_pipeline.serving.gateway.upstream_plan import ENGINE, Escalation, Plan, Task
from llm_pipeline.serving.guardrails import load_policy
from llm_pipeline.serving.protection.keys import key_hash
from llm_pipeline.serving.traffic.routing import Route, Snapshot, open_index
from llm_pipeline.serving.traffic.state import State
from llm_pipeline.store import write_atomically

POLICY = DATA / "policies" / "guardrails.yaml"
PLAIN = Prompt(grounded="{passages}\n\n{question}")
"""Adds nothing to a conversation without passages."""
LOCAL = "local"


@dataclass(frozen=True)
class Model:
    """What answers requests for one model name."""

    order: tuple[str, ...] = ()
    """Upstreams, each asked when the one before failed; all of the file's in their order when none is named."""
    escalate: Escalation | None = None
    tasks: tuple[Task, ...] = ()
    prompt: str | None = None
    """File of `data/prompts`, by name or path; none: messages go as they came."""
    policy: Path = POLICY
    index: str | None = None
    """Folder of an index; passages of it are put before questions."""
    passages: int = 2
    cache: Mapping[str, Any] = field(default_factory=dict)
    """As in a release's engine settings; off when empty."""


@dataclass(frozen=True)
class Alone(GatewaySettings):
    """The file of a gateway that runs alone."""

    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    embeddings: str | None = None
    """The upstream that /v1/embeddings goes to."""
    models: Mapping[str, Model] = field(default_factory=lambda: {"default": Model()})

    def __post_init__(self) -> None:
        if not self.upstreams or not self.models:
            raise ConfigError("gateway: expected at least one upstream and one model")
        for upstream in self.upstreams.values():
            upstream.key()
        if self.embeddings is not None and self.embeddings not in self.upstreams:
            raise ConfigError(f"gateway: embeddings: unknown upstream {self.embeddings!r}{near(self.embeddings, self.upstreams)}")
        for name, model in self.models.items():
            cache_settings({"cache": model.cache}, f"gateway: model {name!r}")
            plan = self.plan(model)
            for task in plan.tasks:
                if task.release is not None and task.release not in self.models:
                    raise ConfigError(f"gateway: model {name!r}: task {task.name!r} names an unknown model {task.release!r}")
            if ENGINE in plan.order:
                raise ConfigError(f"gateway: model {name!r}: there is no {ENGINE!r} here, only upstreams")

    @property
    def embedding_upstream(self) -> Upstream | None:
        return self.upstreams[self.embeddings] if self.embeddings else None

    def plan(self, model: Model) -> Plan:
        return Plan(self.upstreams, model.order or tuple(self.upstreams), model.escalate, model.tasks)


def load_alone(path: Path) -> Alone:
    """Read a gateway's file; paths in it are relative to it."""
    raw = load_yaml(path)
    if isinstance(raw, Mapping) and isinstance(raw.get("models"), Mapping):
        for model in raw["models"].values():
            for name in ("policy", "index", "prompt"):
                if isinstance(model, dict) and isinstance(model.get(name), str) and (path.parent / model[name]).exists():
                    model[name] = str((path.parent / model[name]).resolve())
    return build(Alone, raw, str(path))


class FileRoutes:
    """The snapshots of a file: the same routes always, with the keys that the folder's database holds now."""

    def __init__(self, folder: Path, settings: Alone) -> None:
        self._state = State(folder)
        self._routes = {name: self._route(name, model, settings) for name, model in settings.models.items()}
        self._weights = {next(iter(self._routes)): 1.0}

    def _route(self, name: str, model: Model, settings: Alone) -> Route:
        prompt = find_file(model.prompt).prompt if model.prompt else PLAIN
        searcher = open_index(model.index)
        if model.index and searcher is None:
            raise ConfigError(f"gateway: model {name!r}: index {model.index} cannot be opened")
        engine = {"routing": asdict(settings.plan(model)), "cache": model.cache}
        return Route(name, prompt, load_policy(model.policy), searcher, searcher is not None, model.passages, engine=engine)

    def refresh(self) -> Snapshot:
        return Snapshot(0, self._weights, self._routes, self._state.keys.valid(), at=time.time())

    def report(self, snapshot: Snapshot) -> None:
        """Nothing: nobody waits for a file."""

    def ensure_key(self, path: Path) -> str:
        """The key for this machine's own use, kept in `path` for this user's eyes only."""
        try:
            key = str(json.loads(path.read_text())["key"])
        except (OSError, ValueError, KeyError, TypeError):
            key = ""
        if key_hash(key) not in self._state.keys.valid():
            key = self._state.keys.add(LOCAL, ("chat", "feedback"))
            write_atomically(path, json.dumps({"key": key, "pid": os.getpid()}), private=True)
        return key
