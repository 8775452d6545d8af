"""Which release answers a request: a snapshot of the desired state, refreshed from the database, and the sticky arm."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from llm_pipeline.config import build
from llm_pipeline.prompts import Prompt
from llm_pipeline.serving.guardrails import Policy, build_policy
from llm_pipeline.serving.protection.keys import Key
from llm_pipeline.serving.traffic.desired import Desired, keep, kept, read
from llm_pipeline.serving.traffic.state import Spec, State

log = logging.getLogger(__name__)
HEARTBEAT_SECONDS = 1.0
"""A gateway says at least so often what it acts on."""


class Found(Protocol):
    """What retrieval finds; `llm_pipeline.retrieval.search.Passage` is one."""

    @property
    def id(self) -> str: ...
    @property
    def uri(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def score(self) -> float: ...


class Searcher(Protocol):
    def search(self, question: str, k: int = ..., *, labels: Collection[str] = ...) -> Sequence[Found]: ...


@dataclass(frozen=True)
class Route:
    """How one release answers: everything but the engine's address is fixed with the release."""

    release: str
    prompt: Prompt
    policy: Policy
    searcher: Searcher | None
    retrieval: bool
    passages: int
    urls: tuple[str, ...] = ()
    """Base URLs of the engine's replicas that are ready; none while it starts."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """The release's engine settings."""

    @property
    def url(self) -> str | None:
        """The first replica."""
        return self.urls[0] if self.urls else None


@dataclass(frozen=True)
class Snapshot:
    """What the gateway acts on, replaced whole."""

    revision: int = -1
    weights: Mapping[str, float] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)
    shadow: str | None = None
    """The release that gets a copy of every request and answers none."""
    at: float = 0.0
    """When the desired state was read."""

    def missing(self) -> list[str]:
        """Releases with traffic that have no engine ready."""
        return [name for name in self.weights if name not in self.routes or not self.routes[name].urls]


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
    """Reads the database into snapshots. `refresh` blocks (it may open an index), so it belongs on a thread.

    While the database does not answer, the last snapshot stays in force; a gateway that starts then takes the one kept in the folder.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.name = f"gateway-{os.getpid()}"
        self._built: dict[str, Route] = {}
        self._broken: set[str] = set()
        self._desired: Desired | None = None
        self._last = Snapshot()
        self._said, self._said_at, self._beat_at, self._away = -1, 0.0, 0.0, False

    def refresh(self) -> Snapshot:
        desired = self._read()
        if desired is not None:
            self._last = self._snapshot(desired)
            self._beat(desired)
        return self._last

    def _beat(self, desired: Desired) -> None:
        """Say that this gateway lives, whether or not it can act on what it read."""
        if desired.at - self._beat_at < HEARTBEAT_SECONDS:
            return
        try:
            self._state.observe(f"alive-{os.getpid()}", desired.revision, desired.at)
            self._beat_at = desired.at
        except SQLAlchemyError:
            log.warning("the database did not take a sign of life; the next one is tried")

    def report(self, snapshot: Snapshot) -> None:
        """Say that `snapshot` is what requests meet from now on."""
        if snapshot.revision == self._said and snapshot.at - self._said_at < HEARTBEAT_SECONDS:
            return
        try:
            self._state.observe(self.name, snapshot.revision, snapshot.at)
            self._said, self._said_at = snapshot.revision, snapshot.at
        except SQLAlchemyError:
            log.warning("the database did not take what this gateway acts on; it is said again")

    def _read(self) -> Desired | None:
        try:
            desired = read(self._state)
        except SQLAlchemyError as error:
            if not self._away:
                log.warning("the database does not answer, the last desired state stays in force: %s", error)
            self._away = True
            return kept(self._state.folder) if self._desired is None else None
        if self._away:
            log.info("the database answers again")
        self._away = False
        if self._desired is None or not desired.same(self._desired):
            keep(self._state.folder, desired)
        self._desired = desired
        return desired

    def _snapshot(self, desired: Desired) -> Snapshot:
        for name in set(self._built) - set(desired.releases):
            del self._built[name]
        routes = {}
        for name, registered in desired.releases.items():
            if name not in self._built and not self._build(name, registered.spec):
                continue
            routes[name] = replace(self._built[name], urls=desired.urls.get(registered.engine, ()), engine=registered.release.engine)
        return Snapshot(desired.revision, desired.weights, routes, desired.keys, desired.shadow, desired.at)

    def _build(self, name: str, spec: Spec) -> bool:
        """Make a release's route; one that cannot be made must not keep the others from changing."""
        try:
            self._built[name] = build_route(name, spec)
        except Exception:
            if name not in self._broken:
                log.exception("release %s cannot be served", name)
            self._broken.add(name)
            return False
        return True


def build_route(name: str, spec: Spec) -> Route:
    prompt = build(Prompt, dict(spec.prompt), f"release {name}: prompt")
    return Route(name, prompt, build_policy(spec.policy), open_index(spec.index_path), spec.retrieval, spec.passages)


def open_index(path: str | None) -> Searcher | None:
    """The release's index, warmed by one search; a broken one leaves the release answering without retrieval, loudly."""
    if path is None:
        return None
    from llm_pipeline.retrieval import search

    try:
        searcher: Searcher = search.Searcher(Path(path))
        searcher.search("warm up", k=1)
        return searcher
    except Exception:
        log.exception("index %s cannot be opened: requests that want retrieval will be refused", path)
        return None
