"""The pipeline's own policy on the rows of its evaluation report: a bar for the first model, then the gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_pipeline.errors import ConfigError
from llm_pipeline.evaluation.promotion import Guard, Policy, decide, default_policy

POLICY = default_policy("facts", {"facts": "fact", "unanswerable": "refusal"})


def rows(n: int, em: float, *, retrieval: float = 0.9, refused: float = 0.9, seed: int = 0, name: str = "facts") -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)

    def suite(suite_name: str, mode: str, metric: str, share: float) -> list[dict[str, Any]]:
        return [{"suite": suite_name, "mode": mode, "id": f"q{i}", metric: bool(x)} for i, x in enumerate(rng.random(n) < share)]

    mine = suite(name, "closed", "em", em) + suite(name, "retrieval", "em", retrieval)
    return mine + suite("unanswerable", "retrieval", "refused", refused)


def test_the_first_model_needs_only_the_bar() -> None:
    assert decide([], rows(200, 0.9), POLICY).verdict == "promote"
    assert decide([], rows(200, 0.3), POLICY).verdict == "reject"


def test_identical_models_are_not_promoted() -> None:
    same = rows(200, 0.9)
    decision = decide(same, same, POLICY)
    assert decision.verdict == "insufficient"
    assert "neither better nor worse" in decision.reasons[0]


def test_equal_models_are_promoted_about_once_in_twenty() -> None:
    policy = Policy("facts")
    promoted = sum(decide(rows(200, 0.8, seed=i), rows(200, 0.8, seed=1000 + i), policy).verdict == "promote" for i in range(80))
    assert promoted <= 10


def test_a_better_model_is_promoted() -> None:
    decision = decide(rows(200, 0.4, seed=1), rows(200, 0.9, seed=1), POLICY)
    assert decision.verdict == "promote"
    assert set(decision.metrics) == {"facts/closed/em", "facts/retrieval/em", "unanswerable/retrieval/refused"}
    primary = decision.metrics["facts/closed/em"]
    assert primary["role"] == "primary"
    assert primary["interval"][0] > 0
    assert len(decision.reasons) == 3


@pytest.mark.parametrize("worse", [{"retrieval": 0.6}, {"refused": 0.5}])
def test_a_planted_regression_is_rejected(worse: dict[str, Any]) -> None:
    decision = decide(rows(200, 0.4, seed=1), rows(200, 0.9, seed=1, **worse), POLICY)
    assert decision.verdict == "reject"
    assert len(decision.reasons) == 1
    assert "margin 0.1" in decision.reasons[0]


def test_below_the_bar_is_rejected_although_better() -> None:
    assert decide(rows(200, 0.1, seed=1), rows(200, 0.4, seed=1), POLICY).verdict == "reject"


def test_too_few_answers_are_insufficient() -> None:
    assert decide([], rows(49, 1.0), POLICY).verdict == "insufficient"
    other = [row | {"id": f"other-{row['id']}"} for row in rows(200, 0.2)]
    assert decide(other, rows(200, 0.9), POLICY).verdict == "insufficient"


def test_a_guard_that_the_challenger_did_not_answer_is_a_failure() -> None:
    after = [row for row in rows(200, 0.9, seed=1) if row["mode"] == "closed"]
    decision = decide(rows(200, 0.4, seed=1), after, POLICY)
    assert decision.verdict == "reject"
    assert "not answered by both" in decision.reasons[0]


def test_a_guard_that_nobody_answered_is_named() -> None:
    before, after = ([row for row in rows(200, em, seed=1) if row["suite"] == "facts"] for em in (0.4, 0.9))
    decision = decide(before, after, POLICY)
    assert decision.verdict == "promote"
    assert decision.notes == ("unanswerable/retrieval/refused: no rows on either side, not judged",)


def test_the_same_rows_in_another_order_give_the_same_verdict() -> None:
    before, after = rows(200, 0.8, seed=1), rows(200, 0.86, seed=2)
    assert decide(before, after, POLICY) == decide(before[::-1], after[::-1], POLICY)


def test_a_guard_is_checked_when_built() -> None:
    with pytest.raises(ConfigError, match="expected a metric of"):
        Guard("facts", "closed", "speed")
