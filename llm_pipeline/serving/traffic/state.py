"""The desired state of the endpoint and what was seen of it: one database that supervisor, gateways and clients share.

Releases are immutable; which of them answers is a separate, append-only record of traffic, so a rollback is one new row.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from llm_pipeline.errors import MissingError, near
from llm_pipeline.records import Release, Traffic
from llm_pipeline.serving.protection.keys import Keys
from llm_pipeline.serving.supervision.drains import Drains
from llm_pipeline.serving.traffic.database import metadata, open_database
from llm_pipeline.store import content_hash

NOT_THE_ENGINES = frozenset({"retrieval", "passages", "replicas", "routing", "cache"})
"""Keys of a release's engine settings that the gateway and the supervisor read; the rest is what the engine is."""
FINISHED = ("promoted", "rolled_back", "held", "failed")

_releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("release", sa.JSON),
    sa.Column("spec", sa.JSON),
    sa.Column("created_at", sa.Float),
)
_traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("weights", sa.JSON),
    sa.Column("shadow", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("at", sa.Float),
)
_engines = sa.Table(
    "engine_processes", metadata,
    sa.Column("name", sa.Text, primary_key=True), sa.Column("engine", sa.Text), sa.Column("url", sa.Text), sa.Column("pid", sa.Integer),
    sa.Column("state", sa.Text), sa.Column("restarts", sa.Integer), sa.Column("detail", sa.Text),
)  # fmt: skip
_rollouts = sa.Table(
    "rollouts", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("release", sa.Text), sa.Column("previous", sa.Text),
    sa.Column("config", sa.JSON),
    sa.Column("status", sa.Text), sa.Column("step", sa.Integer), sa.Column("evidence", sa.JSON),
    sa.Column("created_at", sa.Float), sa.Column("updated_at", sa.Float),
)  # fmt: skip
_observed = sa.Table(
    "observed", metadata, sa.Column("component", sa.Text, primary_key=True), sa.Column("revision", sa.Integer), sa.Column("at", sa.Float)
)


@dataclass(frozen=True)
class Spec:
    """A release resolved to this machine: what an engine and the gateway need to serve it."""

    model_path: str
    prompt: Mapping[str, Any]
    policy: Mapping[str, Any]
    index_path: str | None = None
    retrieval: bool = False
    """Whether a request that does not say so is answered over retrieved passages."""
    passages: int = 2


@dataclass(frozen=True)
class Registered:
    """A release as the endpoint knows it."""

    release: Release
    spec: Spec

    @cached_property
    def engine(self) -> str:
        """What its engine is: releases with one model and one set of engine settings share its processes."""
        own = {name: value for name, value in self.release.engine.items() if name not in NOT_THE_ENGINES}
        return content_hash({"model": self.spec.model_path, "settings": own})

    @property
    def replicas(self) -> int:
        return int(self.release.engine.get("replicas", 1))


@dataclass(frozen=True)
class Engine:
    """One engine process, a replica of the engine that some releases share, as the supervisor last saw it."""

    name: str
    engine: str
    url: str
    pid: int
    state: str
    """starting, ready, draining or failed."""
    restarts: int
    detail: str


@dataclass(frozen=True)
class Rollout:
    """One move of traffic: warming -> canary -> promoted, or rolled_back, held, failed."""

    id: int
    release: str
    previous: str | None
    config: Mapping[str, Any]
    status: str
    step: int
    evidence: dict[str, Any]
    created_at: float
    updated_at: float

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


class State:
    """All reads and writes of the endpoint's database; safe to open in many processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._db = open_database(folder)
        self._known: dict[str, Registered] = {}
        self.keys, self.drains = Keys(self._db), Drains(self._db)

    def close(self) -> None:
        self._db.dispose()

    def register(self, release: Release, spec: Spec) -> str:
        """Add a release; the same content again is the same row."""
        row = {"id": release.id, "release": asdict(release), "spec": asdict(spec), "created_at": time.time()}
        try:
            with self._db.begin() as db:
                if db.execute(sa.select(_releases.c.id).where(_releases.c.id == release.id)).first() is None:
                    db.execute(sa.insert(_releases).values(**row))
        except IntegrityError:  # somebody else was as fast with the same release
            pass
        return release.id

    def registered(self, names: Collection[str] | None = None) -> dict[str, Registered]:
        """Releases by id, oldest first; all of them without `names`."""
        query = sa.select(_releases.c.id).order_by(_releases.c.created_at)
        with self._db.begin() as db:
            ids = list(db.scalars(query if names is None else query.where(_releases.c.id.in_(list(names)))))
            if unknown := [name for name in ids if name not in self._known]:
                for row in db.execute(sa.select(_releases).where(_releases.c.id.in_(unknown))):
                    self._known[row.id] = Registered(Release(**row.release), Spec(**row.spec))
        return {name: self._known[name] for name in ids}

    def releases(self) -> dict[str, Spec]:
        return {name: found.spec for name, found in self.registered().items()}

    def find(self, release: str) -> Registered:
        found = self.registered([release])
        if release not in found:
            raise MissingError(f"no release {release!r}{near(release, self.registered())}")
        return found[release]

    def spec(self, release: str) -> Spec:
        return self.find(release).spec

    def traffic(self) -> tuple[int, dict[str, float]]:
        """The current revision (0 before any) and the share of each release."""
        revision, weights, _ = self.traffic_and_shadow()
        return revision, weights

    def traffic_and_shadow(self) -> tuple[int, dict[str, float], str | None]:
        """The same, with the release that requests are mirrored to."""
        with self._db.begin() as db:
            row = db.execute(sa.select(_traffic).order_by(_traffic.c.revision.desc()).limit(1)).first()
        return (row.revision, dict(row.weights), row.shadow) if row else (0, {}, None)

    def set_traffic(self, weights: Mapping[str, float], reason: str, shadow: str | None = None) -> int:
        """Append a traffic record; every release that it names must exist. `shadow` gets copies of all requests and answers none."""
        shares = {name: float(share) for name, share in Traffic(weights).weights.items() if share > 0}
        for name in [*shares, *([shadow] if shadow else [])]:
            self.find(name)
        with self._db.begin() as db:
            done = db.execute(sa.insert(_traffic).values(weights=shares, shadow=shadow, reason=reason, at=time.time()))
        return _key(done)

    def history(self, most: int = 20) -> list[dict[str, Any]]:
        with self._db.begin() as db:
            return [dict(row._mapping) for row in db.execute(sa.select(_traffic).order_by(_traffic.c.revision.desc()).limit(most))]

    def engines(self) -> dict[str, Engine]:
        """Engine processes by name."""
        with self._db.begin() as db:
            return {row.name: Engine(**row._mapping) for row in db.execute(sa.select(_engines).order_by(_engines.c.name))}

    def engines_of(self, release: str) -> list[Engine]:
        """The engine processes that serve a release, one for each replica."""
        engine = self.find(release).engine
        return [process for process in self.engines().values() if process.engine == engine]

    def put_engines(self, engines: Collection[Engine]) -> None:
        """Say that these are the engine processes, and no others."""
        with self._db.begin() as db:
            db.execute(sa.delete(_engines))
            if engines:
                db.execute(sa.insert(_engines), [asdict(engine) for engine in engines])

    def begin_rollout(self, release: str, config: Mapping[str, Any]) -> int:
        """Ask for a move of traffic to `release`; one that is under way is ended first, as superseded."""
        self.find(release)
        now, (_, weights) = time.time(), self.traffic()
        previous = max(weights, key=lambda name: weights[name]) if weights else None
        with self._db.begin() as db:
            open_ones = _rollouts.c.status.not_in(FINISHED)
            db.execute(sa.update(_rollouts).where(open_ones).values(status="failed", evidence={"reason": "superseded"}, updated_at=now))
            values = {"release": release, "previous": previous, "config": dict(config), "status": "warming", "step": 0, "evidence": {}}
            done = db.execute(sa.insert(_rollouts).values(**values, created_at=now, updated_at=now))
        return _key(done)

    def rollout(self, identity: int | None = None) -> Rollout | None:
        """One rollout, or the newest."""
        query = sa.select(_rollouts).order_by(_rollouts.c.id.desc()).limit(1)
        with self._db.begin() as db:
            row = db.execute(query if identity is None else query.where(_rollouts.c.id == identity)).first()
        return Rollout(**row._mapping) if row else None

    def update_rollout(self, identity: int, **values: Any) -> None:
        """Change a rollout that is not finished; a finished one stays as it ended."""
        with self._db.begin() as db:
            where = (_rollouts.c.id == identity) & _rollouts.c.status.not_in(FINISHED)
            db.execute(sa.update(_rollouts).where(where).values(**values, updated_at=time.time()))

    def observe(self, component: str, revision: int, at: float | None = None) -> None:
        """Say that `component` acts on a traffic revision that it read at the time `at`."""
        values = {"revision": revision, "at": time.time() if at is None else at}
        with self._db.begin() as db:
            if not db.execute(sa.update(_observed).where(_observed.c.component == component).values(**values)).rowcount:
                db.execute(sa.insert(_observed).values(component=component, **values))

    def observations(self) -> dict[str, tuple[int, float]]:
        """What every component (`gateway-<pid>`) acts on, and when it last read that."""
        with self._db.begin() as db:
            return {row.component: (row.revision, row.at) for row in db.execute(sa.select(_observed))}

    def forget(self, *, but: Collection[str]) -> None:
        """Drop the observations of components that are gone."""
        with self._db.begin() as db:
            db.execute(sa.delete(_observed).where(_observed.c.component.not_in(list(but))))


def _key(done: sa.CursorResult[Any]) -> int:
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])
