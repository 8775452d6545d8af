"""What a gateway acts on, as it lies in the database, and its copy in the endpoint's folder for when the database is away."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_pipeline.records import Release
from llm_pipeline.serving.protection.keys import Key, Limits
from llm_pipeline.serving.traffic.state import Registered, Spec, State
from llm_pipeline.store import write_atomically

log = logging.getLogger(__name__)
FILE = "desired.json"


@dataclass(frozen=True)
class Desired:
    """One reading of the database."""

    revision: int
    weights: Mapping[str, float]
    shadow: str | None
    releases: Mapping[str, Registered]
    """Those that have traffic, a shadow's copies, or an engine."""
    urls: Mapping[str, tuple[str, ...]]
    """Engine -> addresses of its replicas that are ready."""
    keys: Mapping[str, Key]
    at: float

    def same(self, other: Desired) -> bool:
        """Whether both say the same, whenever they were read."""
        return replace(self, at=0.0) == replace(other, at=0.0)


def read(state: State) -> Desired:
    """One reading in which traffic and engines belong together: an engine is given up only after a later traffic record."""
    while True:
        at = time.time()
        revision, weights, shadow = state.traffic_and_shadow()
        engines = state.engines().values()
        if state.traffic()[0] == revision:
            break
    urls: dict[str, tuple[str, ...]] = {}
    for engine in engines:
        if engine.state == "ready":
            urls[engine.engine] = (*urls.get(engine.engine, ()), engine.url)
    named = {*weights, *([shadow] if shadow else [])}
    releases = {name: found for name, found in state.registered().items() if name in named or found.engine in urls}
    return Desired(revision, weights, shadow, releases, urls, state.keys.valid(), at)


def keep(folder: Path, desired: Desired) -> None:
    """Leave a copy for this user's eyes only (it holds hashes of keys, not keys)."""
    try:
        write_atomically(folder / FILE, json.dumps(asdict(desired), default=sorted), private=True)
    except OSError as error:
        log.warning("no copy of the desired state can be kept in %s: %s", folder, error)


def kept(folder: Path) -> Desired | None:
    """The copy, or None when there is none that can be read."""
    try:
        raw: dict[str, Any] = json.loads((folder / FILE).read_text())
        return Desired(
            revision=raw["revision"],
            weights=raw["weights"],
            shadow=raw["shadow"],
            releases={n: Registered(Release(**r["release"]), Spec(**r["spec"])) for n, r in raw["releases"].items()},
            urls={engine: tuple(urls) for engine, urls in raw["urls"].items()},
            keys={digest: _key(key) for digest, key in raw["keys"].items()},
            at=raw["at"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(raw: dict[str, Any]) -> Key:
    sets = {name: frozenset(raw[name]) for name in ("scopes", "labels")}
    return Key(**{**raw, **sets, "limits": Limits(**raw["limits"])})
