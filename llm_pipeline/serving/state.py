"""The desired state of the endpoint and what was seen of it: one SQLite file that supervisor, gateway and clients share.

Releases are immutable; which of them answers is a separate, append-only record of traffic, so a rollback is one new row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llm_pipeline.errors import MissingError, near
from llm_pipeline.records import Release, Traffic
from llm_pipeline.serving.database import metadata, open_database
from llm_pipeline.serving.keys import Keys

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
    sa.Column("reason", sa.Text),
    sa.Column("at", sa.Float),
)
_engines = sa.Table(
    "engines", metadata,
    sa.Column("release", sa.Text, primary_key=True), sa.Column("port", sa.Integer), sa.Column("pid", sa.Integer),
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
class Engine:
    release: str
    port: int
    pid: int
    state: str
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
        self.keys = Keys(self._db)

    def close(self) -> None:
        self._db.dispose()

    def register(self, release: Release, spec: Spec) -> str:
        """Add a release; the same content again is the same row."""
        row = {"id": release.id, "release": asdict(release), "spec": asdict(spec), "created_at": time.time()}
        with self._db.begin() as db:
            db.execute(sa.text("INSERT OR IGNORE INTO releases VALUES (:id, :release, :spec, :created_at)"), _as_text(row))
        return release.id

    def releases(self) -> dict[str, Spec]:
        with self._db.begin() as db:
            return {row.id: Spec(**row.spec) for row in db.execute(sa.select(_releases).order_by(_releases.c.created_at))}

    def spec(self, release: str) -> Spec:
        known = self.releases()
        if release not in known:
            raise MissingError(f"no release {release!r}{near(release, known)}")
        return known[release]

    def engine_settings(self, release: str) -> dict[str, Any]:
        with self._db.begin() as db:
            row = db.execute(sa.select(_releases.c.release).where(_releases.c.id == release)).one()
        return dict(row.release["engine"])

    def traffic(self) -> tuple[int, dict[str, float]]:
        """The current revision (0 before any) and the share of each release."""
        with self._db.begin() as db:
            row = db.execute(sa.select(_traffic).order_by(_traffic.c.revision.desc()).limit(1)).first()
        return (row.revision, dict(row.weights)) if row else (0, {})

    def set_traffic(self, weights: Mapping[str, float], reason: str) -> int:
        """Append a traffic record; every release that it names must exist."""
        shares = {name: float(share) for name, share in Traffic(weights).weights.items() if share > 0}
        for name in shares:
            self.spec(name)
        with self._db.begin() as db:
            done = db.execute(sa.insert(_traffic).values(weights=shares, reason=reason, at=time.time()))
        return _key(done)

    def history(self, most: int = 20) -> list[dict[str, Any]]:
        with self._db.begin() as db:
            return [dict(row._mapping) for row in db.execute(sa.select(_traffic).order_by(_traffic.c.revision.desc()).limit(most))]

    def engines(self) -> dict[str, Engine]:
        with self._db.begin() as db:
            return {row.release: Engine(**row._mapping) for row in db.execute(sa.select(_engines))}

    def put_engine(self, engine: Engine) -> None:
        with self._db.begin() as db:
            db.execute(sa.delete(_engines).where(_engines.c.release == engine.release))
            db.execute(sa.insert(_engines).values(**asdict(engine)))

    def drop_engines(self, keep: Sequence[str] = ()) -> None:
        with self._db.begin() as db:
            db.execute(sa.delete(_engines).where(_engines.c.release.not_in(list(keep))))

    def begin_rollout(self, release: str, config: Mapping[str, Any]) -> int:
        """Ask for a move of traffic to `release`; one that is under way is ended first, as superseded."""
        self.spec(release)
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

    def observe(self, component: str, revision: int) -> None:
        with self._db.begin() as db:
            statement = sa.text("INSERT INTO observed VALUES (:c, :r, :t) ON CONFLICT (component) DO UPDATE SET revision = :r, at = :t")
            db.execute(statement, {"c": component, "r": revision, "t": time.time()})

    def observed(self, component: str) -> tuple[int, float]:
        """The traffic revision that `component` acts on, and when it said so."""
        with self._db.begin() as db:
            row = db.execute(sa.select(_observed).where(_observed.c.component == component)).first()
        return (row.revision, row.at) if row else (-1, 0.0)


def _key(done: sa.CursorResult[Any]) -> int:
    assert done.inserted_primary_key is not None
    return int(done.inserted_primary_key[0])


def _as_text(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
