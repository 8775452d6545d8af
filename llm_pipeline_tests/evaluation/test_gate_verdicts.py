"""Verdicts on scores of two models: what promotes, what rejects, what is not enough, and that nothing but the scores decides."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.errors import ConfigError, InputError
from llm_pipeline.evaluation.gate import Decision, judge
from llm_pipeline.evaluation.gate_policy import GatePolicy
from llm_pipeline.evaluation.scores import Scores, scores_of

EM = GatePolicy("em")


def named(metric: str, values: Any) -> Scores:
    return {metric: {f"q{i}": float(x) for i, x in enumerate(values)}}


def binary(n: int, wins: int, losses: int, metric: str = "em") -> tuple[Scores, Scores]:
    """Pairs of which `wins` turn right, `losses` turn wrong, and half of the others are right on both sides."""
    before = [0] * wins + [1] * losses + [i % 2 for i in range(n - wins - losses)]
    after = [1] * wins + [0] * losses + before[wins + losses :]
    return named(metric, before), named(metric, after)


def graded(n: int, change: float, metric: str = "rouge", noise: float = 0.1) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(n)
    before = rng.uniform(0.3, 0.7, n)
    return named(metric, before), named(metric, before + change + rng.normal(0, noise, n) - rng.normal(0, noise, n).mean())


def joined(*sides: tuple[Scores, Scores]) -> tuple[Scores, Scores]:
    return {k: v for before, _ in sides for k, v in before.items()}, {k: v for _, after in sides for k, v in after.items()}


def test_better_and_no_guard_lost_is_promoted() -> None:
    decision = judge(*joined(binary(1000, 60, 20), graded(1000, 0.0)), EM)
    assert decision.verdict == "promote"
    assert [(name, m["role"], m["verdict"]) for name, m in decision.metrics.items()] == [
        ("em", "primary", "pass"),
        ("rouge", "guard", "pass"),
    ]
    em = decision.metrics["em"]
    assert (em["n"], em["challenger"] - em["champion"]) == (1000, pytest.approx(0.04))
    assert em["difference"] == pytest.approx(0.04)
    assert 0 < em["interval"][0] < 0.04 < em["interval"][1]
    assert em["test"] == "McNemar mid-p"
    assert em["p_value"] < 0.001
    assert em["minimum_detectable_effect"]["0.8"] < em["minimum_detectable_effect"]["0.9"]
    assert decision.metrics["rouge"]["margin"] == 0.02


def test_a_lost_guard_rejects_whatever_was_gained() -> None:
    decision = judge(*joined(binary(1000, 100, 20), binary(1000, 10, 60, "safe")), EM)
    assert decision.verdict == "reject"
    [reason] = decision.reasons
    assert reason.startswith("safe (guard)")


def test_a_loss_among_many_guards_must_be_surer_than_a_single_one() -> None:
    """Wins 20, losses 34: p = 0.03 is a claim for one metric, not for one of five."""
    one = judge(*binary(1000, 20, 34, "style"))
    assert one.verdict == "reject"
    assert one.metrics["style"]["adjusted_p"] == one.metrics["style"]["p_worse"] == pytest.approx(0.028, abs=0.003)
    others = [binary(1000, 60, 20), *(binary(1000, 10, 10, name) for name in ("a", "b", "c"))]
    five = judge(*joined(*others, binary(1000, 20, 34, "style")), EM)
    assert five.verdict == "insufficient"
    assert five.metrics["style"]["adjusted_p"] == pytest.approx(5 * five.metrics["style"]["p_worse"])


def test_one_lost_guard_is_enough_wherever_it_stands() -> None:
    for name in ("aaa", "zzz"):
        decision = judge(*joined(binary(1000, 100, 20), binary(1000, 10, 60, name), binary(1000, 1, 1, "mmm")), EM)
        assert (decision.verdict, [m["verdict"] for m in decision.metrics.values()].count("pass")) == ("reject", 2)


def test_a_worse_primary_rejects() -> None:
    assert judge(*binary(1000, 20, 50), EM).verdict == "reject"


def test_equal_models_are_not_enough_and_equal_for_sure_is_a_reason() -> None:
    decision = judge(*binary(400, 20, 20), EM)
    assert decision.verdict == "insufficient"
    assert "a gain of 0.04" in decision.reasons[0]
    sure = judge(*binary(4000, 20, 20), GatePolicy("em", {"em": 0.01}))
    assert sure.verdict == "reject"
    assert "equal to within its margin 0.01" in sure.reasons[0]


def test_a_guard_that_may_have_lost_its_margin_is_not_enough_and_says_how_many_pairs_are() -> None:
    decision = judge(*joined(binary(400, 100, 10), binary(400, 20, 20, "safe")), EM)
    assert decision.verdict == "insufficient"
    needed = decision.metrics["safe"]["pairs_needed"]
    assert f"{needed:,} pairs" in decision.reasons[0]
    scale = round(needed / 400 + 0.5)
    assert judge(*joined(binary(400 * scale, 100, 10), binary(400 * scale, 20 * scale, 20 * scale, "safe")), EM).verdict == "promote"


def test_too_few_pairs_are_their_own_reason() -> None:
    decision = judge(*binary(20, 20, 0), EM)
    assert decision.verdict == "insufficient"
    assert "at least 30 pairs needed" in decision.reasons[0]
    assert judge(*binary(20, 20, 0), GatePolicy("em", minimum_pairs=20)).verdict == "promote"


def test_lower_is_better_turns_the_verdict_not_the_figures() -> None:
    before, after = graded(300, -0.1, "toxicity")
    up, down = judge(before, after), judge(before, after, GatePolicy(lower_is_better=("toxicity",)))
    assert (up.verdict, down.verdict) == ("reject", "promote")
    assert up.metrics["toxicity"]["interval"] == pytest.approx(down.metrics["toxicity"]["interval"])
    assert down.metrics["toxicity"]["difference"] < 0
    errors = binary(1000, 20, 60, "error")
    assert judge(*errors, GatePolicy(lower_is_better=("error",))).verdict == "promote"


def test_a_metric_that_looks_as_if_less_were_better_is_noted_unless_declared() -> None:
    sides = binary(100, 5, 5, "suite/perplexity")
    assert "suite/perplexity: more is taken for better" in judge(*sides).notes[0]
    assert judge(*sides, GatePolicy(lower_is_better=("perplexity",))).notes == ()
    assert judge(*binary(100, 5, 5)).notes == ()


def test_margins_of_other_scales_are_shares_of_the_champion() -> None:
    before, after = graded(300, 0.0, "words")
    long = {"words": {k: 1000 * v for k, v in before["words"].items()}}, {"words": {k: 1000 * v for k, v in after["words"].items()}}
    decision = judge(*joined(binary(300, 60, 5), long), EM)
    assert decision.metrics["words"]["margin"] == pytest.approx(0.02 * decision.metrics["words"]["champion"])
    changes = named("drop", [(-1) ** i * 0.5 for i in range(300)])
    assert judge(*joined(binary(300, 60, 5), (changes, changes)), EM).metrics["drop"]["margin"] == 0.02


def test_a_metric_without_a_say() -> None:
    sides = joined(binary(1000, 60, 20), binary(1000, 0, 100, "style"))
    assert judge(*sides, EM).verdict == "reject"
    decision = judge(*sides, GatePolicy("em", report_only=("style",)))
    assert decision.verdict == "promote"
    assert decision.metrics["style"]["role"] == decision.metrics["style"]["verdict"] == "report"


def test_without_a_named_primary_a_gain_on_any_metric_counts_at_a_stricter_level() -> None:
    sides = joined(binary(1000, 300, 220, "a"), binary(1000, 10, 10, "b"))
    decision = judge(*sides)
    assert (decision.verdict, decision.metrics["a"]["role"], decision.metrics["b"]["role"]) == ("promote", "primary", "guard")
    assert decision.metrics["a"]["level"] == pytest.approx(0.975)
    assert "a is the surest" in decision.notes[0]
    close = joined(binary(1000, 120, 90, "a"), binary(1000, 10, 10, "b"))
    assert judge(*close, GatePolicy("a")).verdict == "promote"
    assert judge(*close).verdict == "insufficient", "p = 0.019 is below 0.025, not below half of it"


def test_ids_without_a_partner_are_counted_and_too_many_refused() -> None:
    before, after = binary(400, 100, 5)
    fewer = {"em": dict(list(after["em"].items())[:300])}
    decision = judge(before, fewer, EM)
    assert decision.metrics["em"]["n"] == 300
    assert decision.notes == ("em: ids on one side only do not count: 100 of the champion, 0 of the challenger",)
    with pytest.raises(InputError, match="199 ids stand on both sides, of 400"):
        judge(before, {"em": dict(list(after["em"].items())[:199])}, EM)


def test_a_metric_that_the_challenger_lacks_is_refused_and_a_new_one_noted() -> None:
    before, after = joined(binary(100, 5, 5), binary(100, 5, 5, "safe"))
    with pytest.raises(InputError, match="the challenger has no scores of safe"):
        judge(before, {"em": after["em"]}, EM)
    assert judge({"em": before["em"]}, after, EM).notes == ("safe: the champion has no scores of it, not compared",)


def test_names_that_mean_no_metric_or_several() -> None:
    before, after = joined(binary(100, 5, 5, "a/em"), binary(100, 5, 5, "b/em"), binary(100, 5, 5, "b/f1"))
    assert judge(before, after, GatePolicy("f1", {"em": 0.3})).metrics["a/em"]["margin"] == 0.3
    with pytest.raises(ConfigError, match="expected one metric that counts, found a/em, b/em"):
        judge(before, after, GatePolicy("em"))
    with pytest.raises(ConfigError, match="no scores of the metric 'safety'"):
        judge(before, after, GatePolicy("f1", {"safety": 0.1}))
    with pytest.raises(ConfigError, match="none is left to decide by"):
        judge(before, after, GatePolicy(report_only=("em", "f1")))


@pytest.mark.parametrize("settings", [{"margin": -1}, {"margins": {"em": float("nan")}}, {"alpha": 0.5}, {"minimum_pairs": 5}])
def test_a_policy_is_checked_when_built(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        GatePolicy(**settings)


def test_variants_of_one_question_count_once() -> None:
    """Ten copies of each answer are no evidence: the p-value is that of the questions, not a tenth of it."""

    def copies(right: int) -> list[dict[str, Any]]:
        found = [{"id": f"q{i}v{v}", "cluster": f"q{i}", "metric": "em", "score": i < right} for i in range(60) for v in range(10)]
        return [*found, {"id": "alone", "cluster": None, "metric": "em", "score": 1}]

    decision = judge(scores_of(copies(30)), scores_of(copies(34)))
    assert (decision.verdict, decision.metrics["em"]["n"]) == ("insufficient", 61)
    assert decision.metrics["em"]["p_value"] == pytest.approx(2 * (0.5**4 / 2))
    mixed = scores_of([{"id": v, "cluster": "q", "metric": "em", "score": v == "a"} for v in "abcd"])
    assert mixed == {"em": {"q": 0.25}}


pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 100), st.integers(0, 100)), min_size=30, max_size=80)


def of_pairs(found: list[tuple[int, int, int, int]]) -> tuple[Scores, Scores]:
    first = joined((named("em", [p[0] for p in found]), named("em", [p[1] for p in found])))
    second = named("rouge", [p[2] / 101 for p in found]), named("rouge", [p[3] / 101 for p in found])
    return joined(first, second)


def rows_of(scores: Scores) -> list[dict[str, Any]]:
    return [{"id": i, "metric": metric, "score": score} for metric, ids in scores.items() for i, score in ids.items()]


@settings(deadline=None, max_examples=25)
@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(found: list[tuple[int, int, int, int]], order: random.Random) -> None:
    before, after = map(rows_of, of_pairs(found))
    expected = judge(scores_of(before), scores_of(after))
    order.shuffle(before)
    order.shuffle(after)
    assert judge(scores_of(before), scores_of(after)) == expected
    assert list(scores_of(before)["em"]) == sorted(scores_of(before)["em"])


@settings(deadline=None, max_examples=25)
@given(pairs)
def test_swapping_the_models_turns_every_difference(found: list[tuple[int, int, int, int]]) -> None:
    before, after = of_pairs(found)
    forth, back = judge(before, after, EM), judge(after, before, EM)
    for name, figures in forth.metrics.items():
        low, high = back.metrics[name]["interval"]
        assert figures["difference"] == pytest.approx(-back.metrics[name]["difference"], abs=1e-12)
        assert figures["interval"] == pytest.approx([-high, -low], abs=1e-9)
        assert figures["p_value"] == pytest.approx(back.metrics[name]["p_value"], abs=1e-12)
    assert not forth.verdict == back.verdict == "promote"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 12), st.integers(0, 10**6))
def test_an_improvement_never_takes_a_promotion_back(losses: int, seed: int) -> None:
    """From the first promotion on, pairs improve one by one in either metric until none is left to improve."""
    rng = np.random.default_rng(seed)
    before, after = joined(binary(60, losses + 12, losses), graded(60, 0.01, noise=0.03))
    policy = GatePolicy("em", {"rouge": 0.03})

    def improve() -> None:
        metric, i = ("em", "rouge")[rng.integers(2)], f"q{rng.integers(60)}"
        after[metric][i] = 1.0 if metric == "em" else after[metric][i] + float(rng.uniform(0, 0.2))

    verdicts = []
    for _ in range(12):
        verdicts.append(judge(before, after, policy).verdict)
        improve()
    if "promote" in verdicts:
        assert set(verdicts[verdicts.index("promote") :]) == {"promote"}


def verdicts(pairs_of: Any, runs: int, policy: GatePolicy) -> list[Decision]:
    return [judge(*pairs_of(np.random.default_rng([7, run])), policy) for run in range(runs)]


def test_equal_models_are_promoted_less_often_than_one_in_twenty() -> None:
    """A/A pairs of n = 400 as in the benchmark, fewer of them: right answers that agree, answers that are right by chance, and grades."""

    def pairs_of(rng: np.random.Generator) -> tuple[Scores, Scores]:
        hard, one, two = rng.beta(2, 1, 400), *rng.random((2, 400))
        grade = rng.normal(0, 0.1, (2, 400)) + hard
        em = named("em", one < hard), named("em", two < hard)
        return joined(em, (named("grade", grade[0]), named("grade", grade[1])))

    decisions = verdicts(pairs_of, 300, GatePolicy(margin=1.0))
    promoted = sum(d.verdict == "promote" for d in decisions)
    rejected = sum(d.verdict == "reject" for d in decisions)
    assert promoted <= 0.05 * 300
    assert rejected <= 0.07 * 300
    assert promoted + rejected > 0, "a gate that never speaks is not calibrated either"


def test_a_loss_of_three_points_on_a_guard_is_caught() -> None:
    """n = 1,000, 8% of the answers change: the challenger gains where it counts and loses 3 points on a guard."""

    def pairs_of(rng: np.random.Generator) -> tuple[Scores, Scores]:
        wins, losses, _ = rng.multinomial(1000, [0.025, 0.055, 0.92])
        return joined(binary(1000, 100, 10), binary(1000, wins, losses, "safe"))

    decisions = verdicts(pairs_of, 200, EM)
    assert sum(d.verdict != "promote" for d in decisions) >= 0.98 * 200
    assert sum(d.verdict == "reject" for d in decisions) >= 0.85 * 200
