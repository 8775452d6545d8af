"""The canary's test, by simulation: how often it is wrong when nothing changed, and how fast it sees what did."""

import math
import random
from datetime import datetime, timedelta
from itertools import product

import pytest

from llm_pipeline.serving.traffic.canary import Monitor, RolloutConfig, bad_events, slow_threshold
from llm_pipeline.serving.traffic.evidence import EProcess, ExactTest, upper_bound


def row(release: str, *, bad: bool = False, first: float = 0.01, answer: str = "x", at: float = 0.0) -> dict[str, object]:
    return {
        "received_at": (datetime(2026, 1, 1) + timedelta(seconds=at)).isoformat(),
        "release": release,
        "finish_reason": "error" if bad else "stop",
        "seconds": {"first_token": first},
        "guardrails": [],
        "answer": answer,
    }


def run(
    seed: int, *, share: float, stable_bad: float, canary_bad: float, n: int, users: int | None = None, steady: bool = True
) -> tuple[str, int]:
    """Verdict and number of requests of one simulated step; `users` sticky ones when given."""
    r = random.Random(seed)
    config = RolloutConfig(step_requests=n, most_requests=n, consecutive_failures=10**9)
    monitor = Monitor("new", "old", config)
    mine = [r.random() < share for _ in range(users or 0)]
    for i in range(1, n + 1):
        canary = r.choice(mine) if mine else r.random() < share
        monitor.add(row("new" if canary else "old", bad=r.random() < (canary_bad if canary else stable_bad)), share)
        if monitor.verdict()[0] == "rollback":
            return "rollback", i
    return monitor.verdict()[0], n


@pytest.mark.parametrize(("share", "bad"), [(0.1, 0.01), (0.25, 0.05), (0.5, 0.3)])
def test_a_release_that_is_no_worse_is_rarely_rolled_back(share: float, bad: float) -> None:
    wrong = sum(run(seed, share=share, stable_bad=bad, canary_bad=bad, n=1000)[0] == "rollback" for seed in range(150))
    assert wrong <= 4  # alpha is 0.05 over all metrics, and looking after each request does not add to it


def test_few_sticky_users_do_not_look_like_a_bad_release() -> None:
    wrong = sum(run(seed, share=0.1, stable_bad=0.1, canary_bad=0.1, n=1000, users=30)[0] == "rollback" for seed in range(100))
    assert wrong <= 4


def test_half_of_the_answers_failing_is_seen_within_a_step() -> None:
    runs = [run(seed, share=0.1, stable_bad=0.01, canary_bad=0.5, n=400) for seed in range(100)]
    assert sum(verdict == "rollback" for verdict, _ in runs) >= 98
    assert sorted(n for _, n in runs)[50] < 120


def test_the_e_value_is_a_fair_bet_under_the_null() -> None:
    share, total, r = 0.2, 0.0, random.Random(1)
    for _ in range(3000):
        test = EProcess()
        for _ in range(3):
            test.add(canary=r.random() < share, share=share)
        total += test.value
    assert total / 3000 == pytest.approx(1.0, abs=0.15)


def test_the_exact_tests_chance_of_a_false_alarm_is_what_it_says() -> None:
    """Every way on which 12 bad events can fall, with its chance: those on which it ends have nearly what may be spent, and no more."""
    shares, alarm = [0.1] * 4 + [0.5] * 8, 0.0
    for way in product((False, True), repeat=12):
        test = ExactTest(0.2)
        for canary, share in zip(way, shares, strict=True):
            test.add(canary=canary, share=share)
        if test.ended:
            alarm += math.prod(share if canary else 1 - share for canary, share in zip(way, shares, strict=True))
    assert 0.2 * 12 / 22 * 0.8 < alarm <= 0.2 * 12 / 22


def test_a_tenth_of_the_answers_failing_instead_of_a_hundredth_is_mostly_seen_within_600_requests() -> None:
    runs = [run(seed, share=0.1, stable_bad=0.01, canary_bad=0.1, n=600)[0] for seed in range(200)]
    assert runs.count("rollback") >= 135


def test_the_bound_is_wilsons() -> None:
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(0, 100) == pytest.approx(1.645**2 / (100 + 1.645**2))
    assert upper_bound(50, 100) == pytest.approx(0.5811, abs=1e-3)
    assert upper_bound(100, 100) == 1.0


def test_everybody_gets_only_what_is_shown_to_be_good_enough() -> None:
    monitor = Monitor("new", "old", RolloutConfig(step_requests=20, least_canary=2))
    for i in range(100):
        monitor.add(row("new" if i % 2 else "old"), 0.5)
    assert monitor.verdict()[0] == "advance"
    verdict, reason = monitor.verdict(last=True)
    assert (verdict, reason) == ("wait", "error: up to 5.1% of the new release's requests may be bad, allowed are 3.0%")
    for i in range(100):
        monitor.add(row("new" if i % 2 else "old"), 0.5)
    assert monitor.verdict(last=True)[0] == "advance"


def test_verdicts_in_order() -> None:
    config = RolloutConfig(step_requests=20, least_canary=5, most_requests=40, consecutive_failures=3)
    monitor = Monitor("new", "old", config)
    assert monitor.verdict()[0] == "wait"
    for i in range(20):
        monitor.add(row("new" if i % 2 else "old"), 0.5)
    assert monitor.verdict()[0] == "advance"
    monitor.next_step()
    assert monitor.verdict()[0] == "wait"
    for _ in range(3):
        monitor.add(row("new", bad=True), 0.5)
    assert monitor.verdict() == ("rollback", "3 failures in a row")


def test_undecided_is_held_not_promoted() -> None:
    monitor = Monitor("new", "old", RolloutConfig(step_requests=20, least_canary=21, most_requests=40))
    for i in range(40):
        monitor.add(row("new" if i % 2 else "old"), 0.5)
    assert monitor.verdict()[0] == "hold"


def test_what_is_a_bad_event() -> None:
    assert bad_events(row("x", bad=True), None) == {"error": True, "slow": False, "guardrail": False, "empty": False}
    assert bad_events(row("x", first=2.0), 1.0)["slow"]
    assert bad_events(row("x", answer="  "), None)["empty"]
    assert bad_events(row("x") | {"guardrails": ["output:card"], "finish_reason": "content_filter"}, None)["guardrail"]


def test_other_releases_blocked_inputs_and_abandoned_requests_do_not_count() -> None:
    monitor = Monitor("new", "old", RolloutConfig())
    for extra in ({"release": "older"}, {"finish_reason": "cancelled"}, {"guardrails": ["input:x"], "finish_reason": "content_filter"}):
        monitor.add(row("new") | extra, 0.5)
    assert monitor.counts == {"canary": 0, "stable": 0}


def test_slow_is_the_95th_percentile_of_the_stable_release() -> None:
    rows = [row("old", first=i / 100) for i in range(1, 101)] + [row("new", first=9.0)] * 50
    assert slow_threshold(rows, "old") == pytest.approx(0.95)
    assert slow_threshold(rows[:10], "old") is None


def test_a_burst_of_slow_answers_is_one_incident_and_a_slow_release_is_many() -> None:
    burst = Monitor("new", "old", RolloutConfig(), slow_seconds=0.1)
    for i in range(200):
        burst.add(row("new" if i % 10 == 0 else "old", first=0.2 if 100 <= i < 150 and i % 10 == 0 else 0.01, at=i * 0.02), 0.1)
    assert burst.bad["slow"] == {"canary": 1, "stable": 0}
    assert burst.verdict()[0] == "advance"
    slow = Monitor("new", "old", RolloutConfig(), slow_seconds=0.1)
    for i in range(200):
        slow.add(row("new" if i % 10 == 0 else "old", first=0.2 if i % 10 == 0 else 0.01, at=i * 0.2), 0.1)
        if slow.verdict()[0] == "rollback":
            break
    assert slow.verdict()[0] == "rollback"
    assert i < 60


def test_bursts_that_hit_both_releases_alike_do_not_look_like_a_slow_release() -> None:
    """Whole seconds in which everything is slow: each counts once, for whichever release met it first."""
    wrong = 0
    for seed in range(100):
        r, monitor = random.Random(seed), Monitor("new", "old", RolloutConfig(step_requests=2000, most_requests=2000), slow_seconds=0.1)
        busy = {second for second in range(200) if r.random() < 0.2}
        for i in range(2000):
            monitor.add(row("new" if r.random() < 0.1 else "old", first=0.2 if i // 10 in busy else 0.01, at=i * 0.1), 0.1)
        wrong += monitor.verdict()[0] == "rollback"
    assert wrong <= 4


def said(identity: str, **opinion: object) -> dict[str, object]:
    return {"interaction_id": identity, **opinion}


def test_thumbs_down_and_low_scores_count_once_for_the_arm_that_answered() -> None:
    monitor = Monitor("new", "old", RolloutConfig(judge_floor=0.4))
    for i in range(10):
        monitor.add(row("new" if i < 5 else "old") | {"id": str(i)}, 0.5)
    for identity, rating in (("0", -1.0), ("0", -1.0), ("1", 1.0), ("7", "down"), ("unknown", -1.0), ("2", None)):
        monitor.add_opinion("feedback", said(identity, rating=rating))
    for identity, score in (("0", 0.39), ("1", 0.4), ("8", 0.0)):
        monitor.add_opinion("judge", said(identity, score=score))
    assert monitor.bad["feedback"] == {"canary": 1, "stable": 1}
    assert monitor.bad["judge"] == {"canary": 1, "stable": 1}


def test_users_who_dislike_a_release_take_it_back() -> None:
    r, monitor = random.Random(3), Monitor("new", "old", RolloutConfig(step_requests=10**6, most_requests=10**6))
    for i in range(600):
        release = "new" if r.random() < 0.2 else "old"
        monitor.add(row(release) | {"id": str(i)}, 0.2)
        if r.random() < (0.3 if release == "new" else 0.02):
            monitor.add_opinion("feedback", said(str(i), rating=-1.0))
    assert monitor.verdict()[0] == "rollback"
    assert monitor.verdict()[1].startswith("feedback: ")
    assert monitor.opposite["feedback"].value < 1


def test_mirrored_answers_count_in_a_shadow_phase_alone() -> None:
    mirrored, live = row("new", bad=True) | {"variant": "shadow"}, row("old") | {"variant": "old"}
    shadow, canary = Monitor("new", "old", RolloutConfig(), mirrored=True), Monitor("new", "old", RolloutConfig())
    for monitor in (shadow, canary):
        monitor.add(mirrored, 0.5)
        monitor.add(live, 0.5)
    assert shadow.counts == {"canary": 1, "stable": 1}
    assert canary.counts == {"canary": 0, "stable": 1}


def test_an_answer_that_another_release_had_to_give_counts_for_the_arm_it_was_assigned_to() -> None:
    monitor = Monitor("new", "old", RolloutConfig())
    monitor.add(row("old", bad=True) | {"variant": "new"}, 0.5)
    monitor.add(row("old") | {"cache": "hit"}, 0.5)
    assert monitor.counts == {"canary": 1, "stable": 0}
    assert monitor.bad["error"] == {"canary": 1, "stable": 0}
