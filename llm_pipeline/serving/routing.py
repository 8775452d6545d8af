"""Which release answers a request: a snapshot of the desired state, refreshed from the database, and the sticky arm."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llm_pipeline.config import build
from llm_pipeline.prompts import Prompt
from llm_pipeline.serving.guardrails import Policy, build_policy
from llm_pipeline.serving.keys import Key
from llm_pipeline.serving.state import Spec, State

log = logging.getLogger(__name__)


class Found(Protocol):
    """What retrieval finds; `llm_pipeline.retrieval.index.Passage` is one."""

    @property
    def id(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def score(self) -> float: ...


class Searcher(Protocol):
    def search(self, question: str, k: int = ...) -> Sequence[Found]: ...


@dataclass(frozen=True)
class Route:
    """How one release answers: everything but the engine's address is fixed with the release."""

    release: str
    prompt: Prompt
    policy: Policy
    searcher: Searcher | None
    retrieval: bool
    passages: int
    url: str | None = None
    """Base URL of the engine, or None while there is none ready."""


@dataclass(frozen=True)
class Snapshot:
    """What the gateway acts on, replaced whole."""

    revision: int = -1
    weights: Mapping[str, float] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Releases with traffic that have no engine ready."""
        return [name for name in self.weights if name not in self.routes or self.routes[name].url is None]


def choose(weights: Mapping[str, float], who: str) -> str:
    """The arm of `who` (a user or session): the same while the shares stay, and a growing first arm keeps those it has.

    The salt is the first arm, so that it is not the same users who try every release first.
    """
    names = list(weights)
    point = int.from_bytes(hashlib.blake2b(who.encode(), digest_size=8, salt=names[0].encode()[:16]).digest(), "big") / 2**64
    for name in names:
        point -= weights[name]
        if point < 0:
            return name
    return names[-1]


class Router:
    """Reads the database into snapshots. `refresh` blocks (it may open an index), so it belongs on a thread."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._built: dict[str, Route] = {}
        self._observed: int | None = None

    def refresh(self) -> Snapshot:
        revision, weights = self._state.traffic()
        engines = self._state.engines()
        wanted = {*weights, *engines}
        if wanted - set(self._built):
            for name, spec in self._state.releases().items():
                if name in wanted and name not in self._built:
                    self._built[name] = build_route(name, spec)
        for name in set(self._built) - wanted:
            del self._built[name]
        urls = {name: f"http://127.0.0.1:{engine.port}" for name, engine in engines.items() if engine.state == "ready"}
        routes = {name: Route(**{**vars(route), "url": urls.get(name)}) for name, route in self._built.items()}
        return Snapshot(revision, weights, routes, self._state.keys.valid())

    def report(self, snapshot: Snapshot) -> None:
        """Say that `snapshot` is what requests meet from now on."""
        if snapshot.revision != self._observed:
            self._state.observe("gateway", snapshot.revision)
            self._observed = snapshot.revision


def build_route(name: str, spec: Spec) -> Route:
    prompt = build(Prompt, dict(spec.prompt), f"release {name}: prompt")
    return Route(name, prompt, build_policy(spec.policy), open_index(spec.index_path), spec.retrieval, spec.passages)


def open_index(path: str | None) -> Searcher | None:
    """The release's index, warmed by one search; a broken one leaves the release answering without retrieval, loudly."""
    if path is None:
        return None
    from llm_pipeline.retrieval import index

    try:
        searcher: Searcher = index.Searcher(Path(path))
        searcher.search("warm up", k=1)
        return searcher
    except Exception:
        log.exception("index %s cannot be opened: requests that want retrieval will be refused", path)
        return None
