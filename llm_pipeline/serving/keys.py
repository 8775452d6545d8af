"""API keys: what a client may do, how much of it, and what it may see; only their hashes are kept."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from llm_pipeline.errors import ConfigError, near
from llm_pipeline.serving.database import metadata

SCOPES = ("chat", "simulate", "feedback", "admin")

_keys = sa.Table(
    "keys", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text), sa.Column("hash", sa.Text, unique=True),
    sa.Column("scopes", sa.JSON), sa.Column("labels", sa.JSON), sa.Column("limits", sa.JSON),
    sa.Column("created_at", sa.Float), sa.Column("expires_at", sa.Float), sa.Column("revoked_at", sa.Float),
)  # fmt: skip


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


class Keys:
    """The keys of an endpoint's database."""

    def __init__(self, db: sa.Engine) -> None:
        self._db = db

    def add(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        labels: Sequence[str] = (),
        limits: Limits = Limits(),
        expires_at: float | None = None,
    ) -> str:
        """Make an API key; only its hash is kept (256 random bits need no slow hash)."""
        for scope in scopes:
            if scope not in SCOPES:
                raise ConfigError(f"scope {scope!r}{near(scope, SCOPES)}")
        key = f"lp-{secrets.token_urlsafe(32)}"
        row = {"name": name, "hash": key_hash(key), "scopes": list(scopes), "labels": list(labels), "limits": asdict(limits)}
        with self._db.begin() as db:
            db.execute(sa.insert(_keys).values(**row, created_at=time.time(), expires_at=expires_at, revoked_at=None))
        return key

    def revoke(self, name: str) -> int:
        """Take back every key of this name; how many there were."""
        with self._db.begin() as db:
            return db.execute(
                sa.update(_keys).where(_keys.c.name == name, _keys.c.revoked_at.is_(None)).values(revoked_at=time.time())
            ).rowcount

    def valid(self) -> dict[str, Key]:
        """Hash -> key, of the keys in force now."""
        in_force = _keys.c.revoked_at.is_(None) & (_keys.c.expires_at.is_(None) | (_keys.c.expires_at > time.time()))
        with self._db.begin() as db:
            return {
                row.hash: Key(
                    row.id, row.name, frozenset(row.scopes), frozenset(row.labels or ()), Limits(**(row.limits or {})), row.expires_at
                )
                for row in db.execute(sa.select(_keys).where(in_force))
            }


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
