"""The canary's test, by simulation: how often it is wrong when nothing changed, and how fast it sees what did."""

import math
import random
from datetime import datetime, timedelta
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pipeline.serving.traffic.canary import Monitor, RolloutConfig, bad_events, slow_threshold
from llm_pipeline.serving.traffic.evidence import EProcess, ExactTest, NonInferiority


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


def exact(way: list[bool], shares: list[float], requests: int = 10) -> ExactTest:
    """After these bad events, each `requests` after the one before."""
    test = ExactTest(0.2)
    for number, (canary, share) in enumerate(zip(way, shares, strict=True), 1):
        test.add(canary=canary, share=share)
        test.look(number * requests)
    return test


@pytest.mark.parametrize("requests", [1, 10, 50])
def test_the_exact_tests_chance_of_a_false_alarm_is_what_it_says(requests: int) -> None:
    """Every way on which 12 bad events can fall, with its chance: those on which it ends have nearly what may be spent, and no more."""
    shares, alarm = [0.1] * 4 + [0.5] * 8, 0.0
    for way in product((False, True), repeat=12):
        if exact(list(way), shares, requests).ended:
            alarm += math.prod(share if canary else 1 - share for canary, share in zip(way, shares, strict=True))
    allowed = 0.2 * (0.75 * min(1, 12 * requests / 600) + 0.2 * 12 / 22)
    assert alarm == pytest.approx(exact([False] * 12, shares, requests).spent)
    assert 0.7 * allowed < alarm <= allowed


def test_requests_without_a_bad_event_let_the_exact_test_end_on_the_hits_that_it_has() -> None:
    test = ExactTest(0.01)
    for canary in (True, True, False, True):
        test.add(canary=canary, share=0.1)
    assert not test.look(100)
    assert test.look(400)


EVENTS = st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.99)), min_size=1, max_size=30)


@given(EVENTS, st.data())
@settings(deadline=None)
def test_more_of_the_bad_events_on_the_canary_never_save_it(events: list[tuple[bool, float]], data: st.DataObject) -> None:
    way, shares = [canary for canary, _ in events], [share for _, share in events]
    worse = [canary or data.draw(st.booleans()) for canary in way]
    assert exact(worse, shares).ended >= exact(way, shares).ended


@given(EVENTS)
@settings(deadline=None)
def test_the_limit_depends_on_when_bad_events_come_and_not_on_whom_they_fall(events: list[tuple[bool, float]]) -> None:
    shares = [share for _, share in events]
    test = exact([canary for canary, _ in events], shares)
    assert test.ended or test.limit == exact([False] * len(shares), shares).limit


def test_the_order_of_bad_events_within_a_look_does_not_matter() -> None:
    """Each of the 220 ways on which three of twelve fall on the canary."""
    for hits in combinations(range(12), 3):
        test = ExactTest(0.5)
        for number in range(12):
            test.add(canary=number in hits, share=0.1)
        assert test.limit == 13
        assert test.look(300)
        assert test.limit == 3


def test_a_tenth_of_the_answers_failing_instead_of_a_hundredth_is_mostly_seen_within_600_requests() -> None:
    runs = [run(seed, share=0.1, stable_bad=0.01, canary_bad=0.1, n=600)[0] for seed in range(200)]
    assert runs.count("rollback") >= 148


@given(st.floats(0.001, 0.98), st.floats(0, 1), st.floats(0.0, 0.9), st.floats(0.01, 0.99), st.integers(0, 300), st.integers(0, 300))
def test_no_release_that_is_too_bad_can_expect_to_win_the_bet_for_it(
    stable: float, above: float, rise: float, share: float, good: int, bad: int
) -> None:
    """Whatever was seen before, and however much too bad it is: the product is multiplied by at most 1, in expectation."""
    share, limit = round(share, 2), max(2 * stable, stable + rise)
    canary = limit + above * (1 - limit)
    expected = 0.0
    for is_canary, chance in ((True, canary), (False, stable)):
        proof = NonInferiority(rise, _requests=good + bad, _bad=bad)
        stake = proof.add(canary=is_canary, share=share)
        arm = share if is_canary else 1 - share
        expected += arm * ((1 - chance) * math.exp(proof.log) + chance * math.exp(proof.log + stake))
    assert limit > 1 or expected <= 1 + 1e-6


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_bad_request_that_is_found_out_later_counts_as_one_found_out_at_once(rows: list[tuple[bool, bool]]) -> None:
    """But for the bets in between, which were made without knowing of it."""
    last, before = rows[-1], NonInferiority(0.04)
    for canary, bad in rows[:-1]:
        stake = before.add(canary=canary, share=0.3)
        if bad:
            before.turn(stake)
    log = before.log
    stake = before.add(canary=last[0], share=0.3)
    good = before.log - log
    before.turn(stake)
    assert (before.log < log + good) == last[0]  # the canary's bad requests count against it, the stable release's for it


def test_everybody_gets_only_what_is_shown_to_be_good_enough() -> None:
    monitor = Monitor("new", "old", RolloutConfig(step_requests=20, least_canary=2))
    for i in range(100):
        monitor.add(row("new" if i % 2 else "old"), 0.5)
    assert monitor.verdict()[0] == "advance"
    verdict, reason = monitor.verdict(last=True)
    assert (verdict, reason.rpartition(",")[0]) == (
        "wait",
        "error: twice as many bad requests, and 4.0% more, are not ruled out: 0 of 50 bad (canary), 0 of 50 bad (stable)",
    )
    for i in range(100):
        monitor.add(row("new" if i % 2 else "old"), 0.5)
    assert monitor.verdict(last=True)[0] == "advance"


def test_a_release_that_is_as_bad_as_must_be_refused_rarely_gets_everybody_however_often_one_looks() -> None:
    """1% before, 5% now, a rise of 4 points: the bound alone (95%) keeps it back, with nothing that takes it back before."""
    promoted = 0
    for seed in range(200):
        r, proof = random.Random(seed), NonInferiority(0.04)
        for _ in range(1500):
            canary = r.random() < 0.5
            stake = proof.add(canary=canary, share=0.5)
            if r.random() < (0.05 if canary else 0.01):
                proof.turn(stake)
            if proof.log >= math.log(20):
                promoted += 1
                break
    assert 0 < promoted <= 20


def test_a_users_complaint_holds_a_release_back() -> None:
    kind, blamed = (Monitor("new", "old", RolloutConfig()) for _ in range(2))
    for monitor in (kind, blamed):
        for i in range(200):
            monitor.add(row("new" if i % 2 else "old") | {"id": str(i)}, 0.5)
    for i in (1, 3, 5):
        blamed.add_opinion("feedback", said(str(i), rating=-1.0))
    assert kind.proofs["feedback"].log > math.log(20) > blamed.proofs["feedback"].log


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
        monitor.add(row("new", bad=True), 0.01)
    assert monitor.verdict() == ("rollback", "3 failures in a row")


def test_a_release_that_fails_late_is_taken_back_at_once_and_one_that_fails_with_the_other_is_not() -> None:
    broken, outage = (Monitor("new", "old", RolloutConfig()) for _ in range(2))
    for i in range(1500):
        for monitor in (broken, outage):
            monitor.add(row("new" if i % 2 else "old", bad=i % 100 in (0, 51)), 0.5)
    failed = 0
    while broken.verdict()[0] != "rollback":
        broken.add(row("old"), 0.5)
        broken.add(row("new", bad=True), 0.5)
        failed += 1
    assert (failed, broken.verdict()[1]) == (14, "14 failures in a row")
    r = random.Random(1)
    for _ in range(100):
        outage.add(row("new" if r.random() < 0.5 else "old", bad=True), 0.5)
    assert outage.verdict()[0] != "rollback"


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
