"""Moving traffic to a new release: warm it, give it a growing share while live interactions are judged, or take it all back."""

from __future__ import annotations

import time
from pathlib import Path

from llm_pipeline.config import build
from llm_pipeline.serving.canary import Monitor, RolloutConfig, slow_threshold
from llm_pipeline.serving.interactions import latest_rows, mark, rows_since
from llm_pipeline.serving.state import Rollout, State


class Controller:
    """Acts on the newest unfinished rollout. `tick` is called often and returns at once; all that matters is in the database."""

    def __init__(self, state: State, folder: Path) -> None:
        self._state, self._segments = state, folder / "interactions"
        self._monitor: tuple[int, Monitor, dict[str, int]] | None = None

    def tick(self) -> None:
        rollout = self._state.rollout()
        if rollout is None or rollout.finished:
            self._monitor = None
            return
        config = build(RolloutConfig, dict(rollout.config), f"rollout {rollout.id}")
        engine = self._state.engines().get(rollout.release)
        if engine is not None and engine.state == "failed":
            self._end(rollout, "failed" if rollout.status == "warming" else "rolled_back", f"its engine does not start: {engine.detail}")
        elif time.time() - rollout.created_at > config.max_seconds:
            self._end(rollout, "failed" if rollout.status == "warming" else "held", f"not finished within {config.max_seconds:g} s")
        elif rollout.status == "warming" and engine is not None and engine.state == "ready":
            self._begin(rollout, config)
        elif rollout.status == "switching":
            self._settle(rollout)
        elif rollout.status == "canary":
            self._watch(rollout, config)

    def _begin(self, rollout: Rollout, config: RolloutConfig) -> None:
        alone = rollout.previous is None or rollout.previous == rollout.release
        if alone or config.strategy == "all_at_once":
            self._switch(rollout, {"reason": "all at once"})
            return
        assert rollout.previous is not None
        slow = slow_threshold(latest_rows(self._segments, 1000), rollout.previous)
        self._state.update_rollout(
            rollout.id, status="canary", step=0, evidence={"marks": mark(self._segments), "slow_seconds": slow, "log": []}
        )
        self._give(rollout, config.steps[0], f"rollout {rollout.id}: step 1")

    def _watch(self, rollout: Rollout, config: RolloutConfig) -> None:
        monitor, marks = self._resume(rollout, config)
        share = config.steps[rollout.step]
        for row in rows_since(self._segments, marks):
            monitor.add(row, share)
        verdict, reason = monitor.verdict()
        evidence = {**rollout.evidence, **monitor.summary(), "reason": reason}
        if verdict == "wait":
            if evidence["requests"] != rollout.evidence.get("requests"):
                self._state.update_rollout(rollout.id, evidence=evidence)
            return
        evidence["log"] = [*rollout.evidence.get("log", []), {"share": share, "verdict": verdict, "reason": reason}]
        self._state.update_rollout(rollout.id, evidence=evidence)
        if verdict != "advance":
            self._end(rollout, "rolled_back" if verdict == "rollback" else "held", reason)
        elif rollout.step + 1 < len(config.steps):
            monitor.next_step()
            self._state.update_rollout(rollout.id, step=rollout.step + 1)
            self._give(rollout, config.steps[rollout.step + 1], f"rollout {rollout.id}: step {rollout.step + 2}")
        else:
            self._switch(rollout, evidence)

    def _resume(self, rollout: Rollout, config: RolloutConfig) -> tuple[Monitor, dict[str, int]]:
        """The monitor of this rollout; a restarted supervisor reads all its interactions again (into the current step)."""
        if self._monitor is None or self._monitor[0] != rollout.id:
            monitor = Monitor(rollout.release, rollout.previous or "", config, rollout.evidence.get("slow_seconds"))
            self._monitor = (rollout.id, monitor, dict(rollout.evidence.get("marks", {})))
        return self._monitor[1], self._monitor[2]

    def _give(self, rollout: Rollout, share: float, reason: str) -> None:
        assert rollout.previous is not None
        self._state.set_traffic({rollout.release: share, rollout.previous: 1 - share}, reason)

    def _switch(self, rollout: Rollout, evidence: dict[str, object]) -> None:
        revision = self._state.set_traffic({rollout.release: 1.0}, f"rollout {rollout.id}: all")
        self._state.update_rollout(rollout.id, status="switching", evidence={**evidence, "revision": revision})

    def _settle(self, rollout: Rollout) -> None:
        """Promoted means that the gateway acts on it, not that it was written down."""
        if self._state.observed("gateway")[0] >= rollout.evidence["revision"]:
            self._state.update_rollout(rollout.id, status="promoted")

    def _end(self, rollout: Rollout, status: str, reason: str) -> None:
        """Give all traffic back to the previous release, if this one had any."""
        current = self._state.traffic()[1]
        if rollout.release in current and rollout.previous is not None and rollout.previous != rollout.release:
            self._state.set_traffic({rollout.previous: 1.0}, f"rollout {rollout.id} {status}: {reason}")
        latest = self._state.rollout(rollout.id)
        self._state.update_rollout(rollout.id, status=status, evidence={**(latest.evidence if latest else {}), "reason": reason})
