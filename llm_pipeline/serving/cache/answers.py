"""Answers kept in memory: the same question to the same release by somebody with the same access need not be generated twice.

exact      everything that decides an answer is equal: release (model, prompt, index, policy), access labels, messages, parameters
semantic   all of that but the wording of the last turn, which must mean the same (cosine similarity) and hold the same facts

Only greedy answers without any guardrail event are kept, never longer than `ttl_seconds`, never more than `most_bytes`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

from llm_pipeline.config import build
from llm_pipeline.errors import ConfigError
from llm_pipeline.records import Interaction
from llm_pipeline.serving.cache.facts import facts
from llm_pipeline.serving.cache.semantic import Embed, Encoder, Space, Vector
from llm_pipeline.serving.gateway.protocol import ChatRequest
from llm_pipeline.serving.protection.keys import Key

log = logging.getLogger(__name__)
State = Literal["", "hit", "semantic", "miss"]
_IRRELEVANT = frozenset({"messages", "stream", "include_usage", "stream_options", "user"})
"""Fields of a request that change how an answer is sent or who asks, not what it is; any other field is part of the key."""
_OVERHEAD = 500
"""Bytes that Python takes for an entry besides its content."""


@dataclass(frozen=True)
class CacheSettings:
    """What a release lets be answered from memory: nothing unless asked for (`cache:` in its engine settings)."""

    exact: bool = False
    semantic: bool = False
    threshold: float = 0.94
    """Least cosine similarity of two wordings; `cache_calibration.py` finds it for a stated rate of false hits."""
    ttl_seconds: float = 3600.0
    scope: Literal["labels", "key", "user"] = "labels"
    """Who shares answers: keys with the same access labels, one key, or one user of a key. Never wider than the labels."""
    sampled: bool = False
    """Keep answers made at a temperature above 0, too."""
    retrieved: bool = False
    """Keep answers made over retrieved passages, too (the index generation is part of the release)."""
    wait_seconds: float = 0.05
    """Longest wait for an embedding; after that it counts as a miss."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.ttl_seconds <= 0 or self.wait_seconds < 0:
            raise ConfigError(f"cache: expected a threshold above 0 and at most 1 and times above 0, received {self}")

    @property
    def on(self) -> bool:
        return self.exact or self.semantic


def cache_settings(engine: Mapping[str, Any], where: str = "release") -> CacheSettings:
    """The cache settings of a release (`Release.engine["cache"]`); off when there are none."""
    return build(CacheSettings, engine.get("cache") or {}, f"{where}: cache")


class Arm(Protocol):
    """The release that answers; the gateway's `Route` is one."""

    @property
    def release(self) -> str: ...
    @property
    def engine(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Answer:
    """A kept answer."""

    text: str
    finish_reason: str
    usage: Mapping[str, int]
    passages: Sequence[Mapping[str, Any]]
    interaction: str
    """The interaction that made it."""


@dataclass
class Lookup:
    """What was looked for and whether it was found; `AnswerCache.store` takes it back with what was generated instead."""

    state: State = ""
    """For the record and the header X-Cache; empty: not to be answered from memory."""
    answer: Answer | None = None
    key: bytes = b""
    space: bytes = b""
    vector: asyncio.Future[Vector] | None = None
    release: str = ""
    settings: CacheSettings = CacheSettings()
    leads: asyncio.Future[bool] | None = None
    """Equal questions wait for it: whether an answer came, kept or not."""


@dataclass(frozen=True)
class _Entry:
    content: bytes
    expires: float
    release: str
    space: bytes
    size: int


class AnswerCache:
    """The answers of one gateway process, used from its event loop only."""

    def __init__(
        self, most_bytes: int = 64 << 20, load: Callable[[], Embed] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_bytes, self._clock = most_bytes, clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._spaces: dict[bytes, Space] = {}
        self._settings: dict[str, CacheSettings] = {}
        self._leaders: dict[bytes, asyncio.Future[bool]] = {}
        self.encoder = Encoder(load)
        self.bytes = 0
        self.counts: Counter[str] = Counter()
        """Lookups by state, and stored, evicted, expired, freed entries."""

    def __len__(self) -> int:
        return len(self._entries)

    async def lookup(self, request: ChatRequest, route: Arm, key: Key, *, retrieves: bool = False) -> Lookup:
        """Find an answer. Waits for that of an equal question under way, and for an embedding where the release allows the search by
        meaning. A miss is given back, by `store` or `release`: others may wait for it."""
        settings, release = self._settings_of(route), route.release
        parameters = _parameters(request) if settings.on else {}
        if not settings.on or not _repeatable(parameters, settings):
            return Lookup()
        who = [sorted(key.labels), key.id if settings.scope != "labels" else None, request.user if settings.scope == "user" else None]
        turns = [_normal(message) for message in request.messages]
        found = Lookup("miss", None, _digest("exact", release, who, parameters, turns), release=release, settings=settings)
        if settings.retrieved or not retrieves:
            await self._in_turn(found)
        try:
            if answer := self._fresh(found.key):
                found.state, found.answer = "hit", answer
            elif settings.semantic and isinstance(question := turns[-1].get("content"), str) and self.encoder.ready():
                found.space = _digest("semantic", release, who, parameters, turns[:-1], facts(question))
                found.vector = self.encoder.vector(question)
                await self._by_meaning(found)
        except asyncio.CancelledError:
            self.release(found)
            raise
        if found.state != "miss":
            self.release(found, answered=True)
        self.counts[found.state] += 1
        return found

    async def _in_turn(self, found: Lookup) -> None:
        """Wait while an equal question is answered, and take its place when that failed; after an answer that is not kept nobody waits."""
        while (leader := self._leaders.get(found.key)) is not None:
            await asyncio.wait({leader})
            if leader.result():
                return
        found.leads = self._leaders[found.key] = asyncio.get_running_loop().create_future()

    def release(self, lookup: Lookup, *, answered: bool = False) -> None:
        """Let those who wait for this question go on; a second time does nothing."""
        if lookup.leads is not None and not lookup.leads.done():
            lookup.leads.set_result(answered)
            del self._leaders[lookup.key]

    def store(self, lookup: Lookup, row: Interaction) -> bool:
        """Keep what was generated after a miss, if it may be kept."""
        self.release(lookup, answered=True)  # those who wait look for it when this has returned
        settings = lookup.settings
        if lookup.state != "miss" or row.release != lookup.release or row.finish_reason not in ("stop", "length"):
            return False
        if row.guardrails or row.guardrail_events or not row.answer or row.status != 200 or (row.passages and not settings.retrieved):
            return False
        content = orjson.dumps([row.answer, row.finish_reason, row.usage, row.passages, row.id])
        size = len(content) + _OVERHEAD + (2000 if lookup.space else 0)
        if size > self._most_bytes:
            return False
        self._remove(lookup.key)
        self._entries[lookup.key] = _Entry(content, self._clock() + settings.ttl_seconds, lookup.release, lookup.space, size)
        self.bytes += size
        while self.bytes > self._most_bytes:
            self._remove(next(iter(self._entries)), "evicted")
        self.counts["stored"] += 1
        if lookup.vector is not None:
            lookup.vector.add_done_callback(lambda vector: self._place(lookup, vector))
        return True

    def keep(self, releases: Iterable[str]) -> None:
        """Free the answers of all other releases; they can never be asked for again."""
        wanted = set(releases)
        for key in [key for key, entry in self._entries.items() if entry.release not in wanted]:
            self._remove(key, "freed")
        self._settings = {name: known for name, known in self._settings.items() if name in wanted}

    def clear(self) -> None:
        self.keep(())

    def close(self) -> None:
        self.encoder.close()

    def _settings_of(self, route: Arm) -> CacheSettings:
        known = self._settings.get(route.release)
        if known is None:
            try:
                known = cache_settings(route.engine)
            except ConfigError as error:
                log.error("release %s answers without a cache: %s", route.release, error)
                known = CacheSettings()
            self._settings[route.release] = known
        return known

    def _fresh(self, key: bytes) -> Answer | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= self._clock():
            self._remove(key, "expired")
            return None
        self._entries.move_to_end(key)
        return Answer(*orjson.loads(entry.content))

    async def _by_meaning(self, found: Lookup) -> None:
        assert found.vector is not None
        await asyncio.wait({found.vector}, timeout=found.settings.wait_seconds)
        space = self._spaces.get(found.space)
        if space is None or not found.vector.done() or found.vector.cancelled() or found.vector.exception() is not None:
            return
        nearest = space.nearest(found.vector.result())
        if nearest and nearest[1] >= found.settings.threshold and (answer := self._fresh(nearest[0])):
            found.state, found.answer = "semantic", answer

    def _place(self, lookup: Lookup, vector: asyncio.Future[Vector]) -> None:
        """Make a kept answer findable by meaning, if it is still kept when its vector comes."""
        if lookup.key in self._entries and not vector.cancelled() and vector.exception() is None:
            self._spaces.setdefault(lookup.space, Space()).add(lookup.key, vector.result())

    def _remove(self, key: bytes, reason: str | None = None) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.size
        if (space := self._spaces.get(entry.space)) is not None:
            space.remove(key)
            if not len(space):
                del self._spaces[entry.space]
        if reason:
            self.counts[reason] += 1


def _parameters(request: ChatRequest) -> dict[str, Any]:
    found = dict(vars(request))
    for name in _IRRELEVANT:
        found.pop(name, None)
    return found


def _repeatable(parameters: Mapping[str, Any], settings: CacheSettings) -> bool:
    """Whether the whole answer is one text that would come out the same again."""
    plain = not parameters.get("logprobs") and not parameters.get("tools") and parameters.get("n") in (None, 1)
    return plain and (settings.sampled or not parameters.get("temperature"))


def _normal(message: Mapping[str, Any]) -> dict[str, Any]:
    """Without what no reader sees: outer white space and how accents are composed."""
    return {name: unicodedata.normalize("NFC", value).strip() if isinstance(value, str) else value for name, value in message.items()}


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=_plain), digest_size=16).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no part of a cache key: {type(value).__name__}")
