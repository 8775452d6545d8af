from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.errors import ConfigError
from llm_pipeline.monitoring.quality import quality_figure, quality_rows, quality_table, read_feedback
from llm_pipeline.monitoring.usage import Price, latency, usage_figure, usage_rows, usage_table


def item(identity: str, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "id": identity,
        "release": "a",
        "key": "k",
        "answer": "42 euros",
        "finish_reason": "stop",
        "passages": "[]",
        "guardrails": "[]",
        "usage": json.dumps({"prompt_tokens": 100, "completion_tokens": 10}),
        "seconds": json.dumps({"total": 0.5, "first_token": 0.1}),
    }
    return plain | changes


def test_quality_is_counted_per_release() -> None:
    items = [
        item("1"),
        item("2", answer=f" {REFUSAL}"),
        item("3", answer=" ", finish_reason="length"),
        item("4", guardrails='["injection"]', passages='[{"id": "p"}]'),
        item("5", release="b"),
    ]
    first, second = quality_rows(items, REFUSAL, {"1": True, "2": False})
    assert (first["release"], first["requests"], first["share"]) == ("a", 4, 0.8)
    assert [first[f"{name}_rate"] for name in ("refusal", "empty", "truncated", "guardrail", "retrieval")] == [0.25] * 5
    assert (first["feedback"], first["feedback_good_rate"]) == (2, 0.5)
    assert json.loads(first["finish_reasons"]) == {"length": 1, "stop": 3}
    assert second["feedback_good_rate"] is None
    assert quality_table([first, second]).num_rows == 2
    quality_figure([first | {"day": "2026-01-01"}, second | {"day": "2026-01-02"}])


def test_usage_costs_tokens_and_measures_latency() -> None:
    items = [item(str(i), seconds=json.dumps({"total": i / 100})) for i in range(101)] + [item("x", key="other")]
    first, other = usage_rows(items, Price(prompt=1.0, completion=2.0))
    assert (first["requests"], first["prompt_tokens"], first["completion_tokens"]) == (101, 10100, 1010)
    assert first["cost_per_request"] == pytest.approx(120e-6)
    assert (first["total_p50"], first["total_p95"]) == (pytest.approx(0.5), pytest.approx(0.95))
    assert first["first_token_p50"] is None
    assert other["first_token_p95"] == 0.1
    assert usage_table([first, other]).num_rows == 2
    usage_figure(items)


def test_a_day_without_traffic_has_empty_reports() -> None:
    assert quality_table(quality_rows([], REFUSAL)).num_rows == 0
    assert usage_table(usage_rows([])).num_rows == 0
    assert latency([], "total", 50) is None


def test_the_last_rating_counts_and_bad_lines_do_not(tmp_path: Path) -> None:
    lines = [
        '{"interaction_id": "1", "rating": "up"}',
        '{"interaction_id": "1", "rating": -1.0}',
        "torn",
        "[]",
        '{"interaction_id": "2", "rating": 0}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert read_feedback(tmp_path) == {"1": False}


def test_recorded_costs_win_over_the_price_list() -> None:
    items = [item("1", cost=0.25, cache="miss"), item("2", cost=0.0, cache="hit"), item("3", cost=0.0, cache="miss")]
    [row] = usage_rows(items, Price(1.0, 1.0))
    assert (row["cost"], row["cache_hits"]) == (pytest.approx(0.25 + 110e-6), 1)


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected numbers >= 0"):
        Price(prompt=-1)
