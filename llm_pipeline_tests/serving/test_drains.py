from __future__ import annotations

import time
from pathlib import Path

from llm_pipeline.serving.supervision.drains import Drains
from llm_pipeline.serving.supervision.fleet import DRAIN_LEAST
from llm_pipeline.serving.traffic.database import open_database
from llm_pipeline_tests.serving.test_supervisor import Engines


def test_the_newest_request_counts(tmp_path: Path) -> None:
    drains = Drains(open_database(tmp_path))
    assert drains.asked() == {}
    drains.ask("a-0")
    first = drains.asked()["a-0"]
    drains.ask("a-0")
    drains.ask("b-0")
    assert drains.asked()["a-0"] >= first
    assert set(drains.asked()) == {"a-0", "b-0"}


def test_a_replica_is_drained_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    engines, drains = Engines(tmp_path), Drains(open_database(tmp_path))
    try:
        engines.want("a", 2)
        engines.wait(a_0="ready", a_1="ready")
        old, other = engines.fleet.rows()
        drains.ask("a-0")

        def tick() -> dict[str, str]:
            engines.fleet.tick(engines.wanted, engines.seen_at, drains.asked())
            return {row.name: row.state for row in engines.fleet.rows()}

        assert tick() == {"a-0": "draining", "a-1": "ready"}
        engines.seen_at = time.time() + 2 * DRAIN_LEAST
        deadline = time.monotonic() + 60
        while tick() != {"a-0": "ready", "a-1": "ready"} or engines.fleet.rows()[0].pid == old.pid:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert engines.fleet.rows()[1].pid == other.pid
        assert tick() == {"a-0": "ready", "a-1": "ready"}
    finally:
        engines.fleet.close()
