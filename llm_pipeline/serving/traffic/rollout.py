"""Moving traffic to a new release, by one of six strategies, and taking it all back when the evidence says so.

warming -> (probing) -> (shadow) -> canary | rolling | running (A/B) -> switching -> promoted, rolled_back, held or failed
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_pipeline.config import build
from llm_pipeline.serving.observability.interactions import latest_rows
from llm_pipeline.serving.traffic.canary import Monitor, RolloutConfig, slow_threshold
from llm_pipeline.serving.traffic.probe import Probe
from llm_pipeline.serving.traffic.state import Engine, Rollout, State
from llm_pipeline.serving.traffic.watch import Watch, marks_now

SETTLE_LOOKS = 150
"""Looks at a switch before it is given up: half a minute of the supervisor's."""


def wanted_replicas(state: State) -> dict[str, int]:
    """How many engine replicas each release should have now: all with traffic, the one on its way, and the one before, kept warm."""
    _, weights, shadow = state.traffic_and_shadow()
    rollout = state.rollout()
    names = [*weights, *([shadow] if shadow else [])]
    if rollout is not None and not rollout.finished:
        names.append(rollout.release)
    elif rollout is not None and rollout.status == "promoted" and rollout.previous:
        names.append(rollout.previous)
    registered = state.registered(names)
    asked = rollout.evidence.get("replicas", {}) if rollout is not None else {}
    return {name: int(asked.get(name, registered[name].replicas)) for name in registered}


class Controller:
    """Acts on the newest unfinished rollout. `tick` is called often and returns at once; all that matters is in the database."""

    def __init__(self, state: State, folder: Path, acted_on: Callable[[int], bool]) -> None:
        self._state, self._folder, self._acted_on = state, folder, acted_on
        self._watch: tuple[tuple[int, str], Watch] | None = None
        self._probe: tuple[int, Probe] | None = None
        self._waits = 0

    def tick(self) -> None:
        rollout = self._state.rollout()
        if self._probe is not None and (rollout is None or rollout.status != "probing" or rollout.id != self._probe[0]):
            self._probe[1].stop()
            self._probe = None
        if rollout is None or rollout.finished:
            self._watch = None
            return
        if rollout.status == "switching":
            return self._settle(rollout)
        self._waits = 0
        config = build(RolloutConfig, dict(rollout.config), f"rollout {rollout.id}")
        engines = self._state.engines_of(rollout.release)
        broken = next((engine for engine in engines if engine.state == "failed"), None)
        started = rollout.status != "warming"
        if broken is not None:
            self._end(rollout, "rolled_back" if started else "failed", f"its engine does not start: {broken.detail}")
        elif rollout.status not in ("running", "decided") and time.time() - rollout.created_at > config.max_seconds:
            self._end(rollout, "held" if started else "failed", f"not finished within {config.max_seconds:g} s")
        else:
            self._phase(rollout, config, [engine for engine in engines if engine.state == "ready"])

    def _phase(self, rollout: Rollout, config: RolloutConfig, ready: list[Engine]) -> None:
        if rollout.status == "warming":
            self._warm(rollout, config, ready)
        elif rollout.status == "probing":
            self._compare(rollout, ready)
        elif rollout.status in ("shadow", "canary"):
            self._judge(rollout, config)
        elif rollout.status == "rolling":
            self._roll(rollout, len(ready))
        elif rollout.status == "running":
            self._look(rollout, config)
        elif rollout.status == "decided":
            self._decide(rollout)

    def _warm(self, rollout: Rollout, config: RolloutConfig, ready: list[Engine]) -> None:
        """Begin once the engine answers: with every replica, unless one is enough to go back or to begin to roll."""
        one_is_enough = config.strategy in ("all_at_once", "rolling")
        if len(ready) < (1 if one_is_enough else self._state.find(rollout.release).replicas):
            return
        if rollout.previous is None or rollout.previous == rollout.release or config.strategy == "all_at_once":
            self._switch(rollout, {"reason": "all at once"})
        elif config.strategy == "blue_green":
            local = config.parity and all(engine.pid for engine in ready)
            self._state.update_rollout(rollout.id, status="probing") if local else self._switch(rollout, {"reason": "warm"})
        elif config.strategy == "rolling":
            self._state.update_rollout(rollout.id, status="rolling", step=0, evidence={"log": []})
        elif config.strategy == "shadow" or config.shadow_requests:
            self._watch_from_now(rollout, "shadow", {})
            _, weights = self._state.traffic()
            self._state.set_traffic(weights, f"rollout {rollout.id}: mirrored", shadow=rollout.release)
        elif config.strategy == "ab":
            self._watch_from_now(rollout, "running", {})
            self._give(rollout, config.share, f"rollout {rollout.id}: A/B")
        else:
            self._begin_canary(rollout, config, {})

    def _begin_canary(self, rollout: Rollout, config: RolloutConfig, evidence: dict[str, Any]) -> None:
        self._watch_from_now(rollout, "canary", evidence)
        self._give(rollout, config.steps[0], f"rollout {rollout.id}: step 1")

    def _watch_from_now(self, rollout: Rollout, status: str, evidence: dict[str, Any]) -> None:
        slow = slow_threshold(latest_rows(self._folder / "interactions", 1000), rollout.previous or "")
        content = {"log": [], **evidence, "marks": marks_now(self._folder), "slow_seconds": slow}
        self._state.update_rollout(rollout.id, status=status, step=0, evidence=content)

    def _compare(self, rollout: Rollout, ready: list[Engine]) -> None:
        """blue_green: the new engine must answer as the model was trained before it gets any traffic."""
        if self._probe is None and ready:
            model = self._state.spec(rollout.release).model_path
            self._probe = (rollout.id, Probe(model, ready[0].url, self._folder, os.getpid()))
        found = self._probe[1].result() if self._probe is not None else None
        if found is None:
            return
        if found["holds"]:
            self._switch(rollout, {"reason": "warm, and its answers are the trained model's", "parity": found})
        else:
            self._state.update_rollout(rollout.id, evidence={"parity": found})
            self._end(rollout, "failed", "its answers are not the trained model's")

    def _judge(self, rollout: Rollout, config: RolloutConfig) -> None:
        """shadow and canary: one more look at the evidence, and what follows from it."""
        shadow = rollout.status == "shadow"
        share = 0.5 if shadow else config.steps[rollout.step]
        watch = self._resume(rollout, config)
        new = watch.feed(share)
        last = not shadow and rollout.step + 1 == len(config.steps)
        verdict, reason = watch.monitor.verdict(self._needed(config) if shadow else config.step_requests, last=last)
        evidence = {**rollout.evidence, **watch.evidence(), "reason": reason}
        if verdict == "wait":
            if new:
                self._state.update_rollout(rollout.id, evidence=evidence)
            return
        evidence["log"] = [
            *rollout.evidence.get("log", []),
            {"phase": rollout.status, "share": 0.0 if shadow else share, "verdict": verdict, "reason": reason},
        ]
        evidence["verdict_at"] = time.time()
        self._state.update_rollout(rollout.id, evidence=evidence)
        if verdict != "advance":
            self._end(rollout, "rolled_back" if verdict == "rollback" else "held", reason)
        elif shadow and config.strategy == "shadow":
            self._end(rollout, "held", f"no worse where it was mirrored ({reason}); it answered nobody")
        elif shadow:
            self._begin_canary(rollout, config, {"log": evidence["log"]})
        elif rollout.step + 1 < len(config.steps):
            watch.monitor.next_step()
            self._state.update_rollout(rollout.id, step=rollout.step + 1)
            self._give(rollout, config.steps[rollout.step + 1], f"rollout {rollout.id}: step {rollout.step + 2}")
        else:
            self._switch(rollout, evidence)

    @staticmethod
    def _needed(config: RolloutConfig) -> int:
        """Interactions of both sides in a shadow phase: each request is one of either."""
        return 2 * (config.shadow_requests or config.step_requests)

    def _look(self, rollout: Rollout, config: RolloutConfig) -> None:
        """ab: the comparison so far, for whoever decides."""
        watch = self._resume(rollout, config)
        if watch.feed(config.share):
            self._state.update_rollout(rollout.id, evidence={**rollout.evidence, **watch.evidence(), "reason": "until a person decides"})

    def _decide(self, rollout: Rollout) -> None:
        """ab: somebody decided; step 1 is for the new release."""
        if rollout.step == 1:
            self._switch(rollout, {**rollout.evidence, "reason": "chosen by a person"})
        else:
            self._end(rollout, "rolled_back", "decided against by a person")

    def _roll(self, rollout: Rollout, ready: int) -> None:
        """rolling: one replica more of the new release, then its share of the traffic, then one less of the old."""
        if "revision" in rollout.evidence and not self._acted_on(rollout.evidence["revision"]):
            return
        assert rollout.previous is not None
        new, old = self._state.find(rollout.release), self._state.find(rollout.previous)
        step, total = rollout.step, new.replicas
        if step >= total:
            return self._switch(rollout, {**rollout.evidence, "replicas": {rollout.previous: 1}, "reason": "every replica is new"})
        left = math.ceil(old.replicas * (total - step) / total)
        shared = new.engine == old.engine
        replicas = {rollout.release: total if shared else step + 1, rollout.previous: old.replicas if shared else left}
        evidence = {**rollout.evidence, "replicas": replicas}
        if evidence != rollout.evidence:
            self._state.update_rollout(rollout.id, evidence=evidence)
        elif ready >= replicas[rollout.release]:
            share = (step + 1) / total
            revision = self._give(rollout, share, f"rollout {rollout.id}: {step + 1} of {total} replicas")
            log = [*rollout.evidence.get("log", []), {"phase": "rolling", "share": share, "replicas": replicas}]
            self._state.update_rollout(rollout.id, step=step + 1, evidence={**evidence, "revision": revision, "log": log})

    def _resume(self, rollout: Rollout, config: RolloutConfig) -> Watch:
        """The evidence of this phase; a restarted supervisor reads all its interactions again (into the current step)."""
        phase = (rollout.id, rollout.status)
        if self._watch is None or self._watch[0] != phase:
            slow = rollout.evidence.get("slow_seconds")
            monitor = Monitor(rollout.release, rollout.previous or "", config, slow, mirrored=rollout.status == "shadow")
            self._watch = (phase, Watch(self._folder, monitor, rollout.evidence.get("marks", {})))
        return self._watch[1]

    def _give(self, rollout: Rollout, share: float, reason: str) -> int:
        assert rollout.previous is not None
        return self._state.set_traffic({rollout.release: share, rollout.previous: 1 - share}, reason)

    def _switch(self, rollout: Rollout, evidence: dict[str, Any]) -> None:
        revision = self._state.set_traffic({rollout.release: 1.0}, f"rollout {rollout.id}: all")
        content = {**evidence, "revision": revision, "outcome": "promoted"}
        self._state.update_rollout(rollout.id, status="switching", evidence=content)

    def _settle(self, rollout: Rollout) -> None:
        """How it ended is said when every gateway acts on it, not when it was written down; what they refuse to act on is taken back."""
        self._waits += 1
        if self._waits > SETTLE_LOOKS and rollout.evidence["outcome"] == "promoted" and rollout.previous not in (None, rollout.release):
            self._end(rollout, "failed", "the gateways do not act on it, see their logs")
        elif self._acted_on(rollout.evidence["revision"]):
            evidence = {**rollout.evidence, "settled_at": time.time()}
            self._state.update_rollout(rollout.id, status=rollout.evidence["outcome"], evidence=evidence)

    def _end(self, rollout: Rollout, status: str, reason: str) -> None:
        """Give all traffic back to the previous release, if this one had any or was mirrored to."""
        _, weights, shadow = self._state.traffic_and_shadow()
        latest = self._state.rollout(rollout.id)
        evidence = {**(latest.evidence if latest else {}), "reason": reason, "outcome": status}
        evidence.pop("replicas", None)
        if rollout.release not in (*weights, shadow) or rollout.previous in (None, rollout.release):
            return self._state.update_rollout(rollout.id, status=status, evidence=evidence)
        assert rollout.previous is not None
        evidence["revision"] = self._state.set_traffic({rollout.previous: 1.0}, f"rollout {rollout.id} {status}: {reason}")
        self._state.update_rollout(rollout.id, status="switching", evidence=evidence)
