"""API keys: what a client may do, how much of it, and what it may see; only their hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from llm_pipeline.errors import ConfigError, MissingError, near
from llm_pipeline.serving.traffic.database import metadata

SEEN_SECONDS = 60.0
SCOPES = ("chat", "simulate", "feedback", "admin")

_keys = sa.Table(
    "keys", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), sa.Column("hash", sa.Text, unique=True),
    sa.Column("scopes", sa.JSON), sa.Column("labels", sa.JSON), sa.Column("limits", sa.JSON),
    sa.Column("created_at", sa.Float), sa.Column("expires_at", sa.Float), sa.Column("revoked_at", sa.Float),
)  # fmt: skip
_retired = sa.Table(
    "key_retired", metadata,
    sa.Column("hash", sa.Text, primary_key=True), sa.Column("key", sa.Integer, index=True), sa.Column("until", sa.Float),
)  # fmt: skip
_uses = sa.Table("key_uses", metadata, sa.Column("key", sa.Integer, primary_key=True), sa.Column("at", sa.Float))


@dataclass(frozen=True)
class Limits:
    """How much a key may ask for; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    monthly_tokens: int | None = None
    monthly_cost: float | None = None


@dataclass(frozen=True)
class Key:
    """One API key in force."""

    id: int
    name: str
    scopes: frozenset[str]
    labels: frozenset[str] = frozenset()
    """Access labels: passages that carry labels are seen only by a key that shares one. Empty: public passages only."""
    limits: Limits = Limits()
    expires_at: float | None = None
    """Unix time."""


@dataclass(frozen=True)
class KeyInfo(Key):
    """One API key as its owner sees it, in force or not; neither its secret nor its hash."""

    created_at: float = 0.0
    revoked_at: float | None = None
    last_used: float | None = None
    rotates_until: float | None = None
    """Until then the secret before the present one is accepted too."""


class Keys:
    """The keys of an endpoint's database.

    A secret is found by its SHA-256 hash: 256 random bits need no slow hash, and how long a look-up takes says nothing about a
    secret that hashes to somewhere else.
    """

    def __init__(self, db: sa.Engine) -> None:
        self._db = db
        self._seen: dict[int, float] = {}
        self._written: dict[int, float] = {}

    def add(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        labels: Sequence[str] = (),
        limits: Limits = Limits(),
        expires_at: float | None = None,
    ) -> str:
        """Make an API key; what is returned is kept nowhere."""
        return self.create(name, scopes, labels=labels, limits=limits, expires_at=expires_at)[1]

    def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        labels: Sequence[str] = (),
        limits: Limits = Limits(),
        expires_at: float | None = None,
    ) -> tuple[int, str]:
        """The same, with the key's id."""
        for scope in scopes:
            if scope not in SCOPES:
                raise ConfigError(f"scope {scope!r}{near(scope, SCOPES)}")
        if expires_at is not None and expires_at <= time.time():
            raise ConfigError(f"expires_at: received {expires_at:.0f}, expected a time to come (now: {time.time():.0f})")
        secret = new_secret()
        row = {"name": name, "hash": key_hash(secret), "scopes": list(scopes), "labels": list(labels), "limits": asdict(limits)}
        with self._db.begin() as db:
            done = db.execute(sa.insert(_keys).values(**row, created_at=time.time(), expires_at=expires_at, revoked_at=None))
        assert done.inserted_primary_key is not None
        return int(done.inserted_primary_key[0]), secret

    def rotate(self, key: int, overlap_seconds: float = 86_400.0) -> str:
        """A new secret for a key in force; the present one is accepted for `overlap_seconds` more, those before it no longer."""
        secret, now = new_secret(), time.time()
        with self._db.begin() as db:
            old = db.execute(sa.select(_keys.c.hash).where(_keys.c.id == key, _in_force(now))).scalar()
            if old is None:
                raise MissingError(f"no key {key} in force")
            db.execute(sa.delete(_retired).where(_retired.c.key == key))
            db.execute(sa.insert(_retired).values(hash=old, key=key, until=now + overlap_seconds))
            db.execute(sa.update(_keys).where(_keys.c.id == key).values(hash=key_hash(secret)))
        return secret

    def change(self, key: int, **values: Any) -> None:
        """Give a key in force other `labels`, `limits` or another `expires_at`."""
        plain = {name: asdict(value) if isinstance(value, Limits) else value for name, value in values.items()}
        mine = (_keys.c.id == key) & _in_force(time.time())
        with self._db.begin() as db:
            if db.execute(sa.select(_keys.c.id).where(mine)).first() is None:
                raise MissingError(f"no key {key} in force")
            if plain:
                db.execute(sa.update(_keys).where(mine).values(**plain))

    def revoke(self, which: str | int) -> int:
        """Take back the key of this id, or every key of this name; how many there were."""
        mine = _keys.c.name == which if isinstance(which, str) else _keys.c.id == which
        with self._db.begin() as db:
            return db.execute(sa.update(_keys).where(mine, _keys.c.revoked_at.is_(None)).values(revoked_at=time.time())).rowcount

    def valid(self) -> dict[str, Key]:
        """Hash -> key, of the secrets that are accepted now."""
        now = time.time()
        with self._db.begin() as db:
            rows = list(db.execute(sa.select(_keys).where(_in_force(now))))
            earlier = list(db.execute(sa.select(_retired).where(_retired.c.until > now)))
        keys = {row.id: Key(**_fields(row)) for row in rows}
        return {row.hash: keys[row.id] for row in rows} | {row.hash: keys[row.key] for row in earlier if row.key in keys}

    def listed(self, name: str | None = None) -> list[KeyInfo]:
        """All keys, or those of a name, oldest first."""
        query = (
            sa.select(_keys, _uses.c.at.label("last_used"), _retired.c.until.label("rotates_until"))
            .outerjoin(_uses, _uses.c.key == _keys.c.id)
            .outerjoin(_retired, (_retired.c.key == _keys.c.id) & (_retired.c.until > time.time()))
            .order_by(_keys.c.id)
        )
        with self._db.begin() as db:
            rows = list(db.execute(query if name is None else query.where(_keys.c.name == name)))
        more = ("created_at", "revoked_at", "last_used", "rotates_until")
        return [KeyInfo(**_fields(row), **{field: getattr(row, field) for field in more}) for row in rows]

    def seen(self, key: int) -> None:
        """Remember that a key was used now, to the minute; it is written down by `write_seen`."""
        now = time.time()
        if now - self._written.get(key, 0.0) > SEEN_SECONDS:
            self._seen[key] = self._written[key] = now

    def write_seen(self) -> None:
        """Write down when keys were last used."""
        seen, self._seen = self._seen, {}
        if seen:
            with self._db.begin() as db:
                db.execute(_SEEN, [{"key": key, "at": at} for key, at in seen.items()])


def _in_force(now: float) -> sa.ColumnElement[bool]:
    return _keys.c.revoked_at.is_(None) & (_keys.c.expires_at.is_(None) | (_keys.c.expires_at > now))


def _fields(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "scopes": frozenset(row.scopes),
        "labels": frozenset(row.labels or ()),
        "limits": Limits(**(row.limits or {})),
        "expires_at": row.expires_at,
    }


def new_secret() -> str:
    return f"lp-{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


_SEEN = sa.text("INSERT INTO key_uses VALUES (:key, :at) ON CONFLICT (key) DO UPDATE SET at = excluded.at WHERE key_uses.at < excluded.at")
