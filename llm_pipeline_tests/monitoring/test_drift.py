from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.errors import ConfigError, InputError, MissingError
from llm_pipeline.monitoring.drift import DriftRule, Past, Reference, Vectors, Window, drift_windows, mmd_of, pick_reference, windows
from llm_pipeline.monitoring.drift_report import TABLE, drift_day, drift_figure, past_rows
from llm_pipeline.monitoring.interactions import SCHEMA
from llm_pipeline.monitoring.reference import launch_reference, pin, reference_texts
from llm_pipeline.store import Home

TOPICS = {name: np.random.default_rng(i).normal(size=16) for i, name in enumerate("abcdefgh")}
RULE = DriftRule(window=100)


def embed(texts: Sequence[str]) -> Vectors:
    """A text `topic number` as a point of its topic's cloud."""
    rows = [TOPICS[text[0]] * 2 + np.random.default_rng(int(text[2:])).normal(size=16) * 0.6 for text in texts]
    return np.array(rows, np.float32)


def traffic(topics: str, n: int, rng: random.Random, *, bursty: bool = True) -> list[str]:
    weights = [rng.gammavariate(8, 1) if bursty else 1.0 for _ in topics]
    return [f"{rng.choices(topics, weights)[0]} {rng.randrange(10**6)}" for _ in range(n)]


def calibrated(rng: random.Random, reference: Reference, days: int = 7) -> tuple[Past, list[Window]]:
    rows: list[dict[str, Any]] = []
    seen: list[Window] = []
    for _ in range(days):
        judged = drift_windows(traffic("abcdef", 300, rng), reference, embed, Past.of(rows, RULE), RULE)
        seen += judged
        rows += [{"alarm": w.alarm, "n": w.n, "novelty": w.novelty, "mmd": w.mmd, "cusum": w.cusum} for w in judged]
    return Past.of(rows, RULE), seen


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(embed(traffic("abcdef", 800, random.Random(0), bursty=False)), RULE)


def test_nothing_alarms_before_twenty_windows(reference: Reference) -> None:
    past, seen = calibrated(random.Random(1), reference, days=6)
    assert {window.status for window in seen} == {"calibrating"}
    judged = drift_windows(traffic("gh", 300, random.Random(2)), reference, embed, Past(past.novelty[:19], past.mmd[:19]), RULE)
    assert {window.status for window in judged} == {"calibrating"}
    assert judged[0].novelty_z is None


def test_calm_bursty_traffic_rarely_alarms(reference: Reference) -> None:
    alarms = 0
    for seed in range(10):
        rng = random.Random(100 + seed)
        past, _ = calibrated(rng, reference)
        judged = drift_windows(traffic("abcdef", 300, rng), reference, embed, past, RULE)
        alarms += sum(window.alarm for window in judged)
    assert alarms <= 1, "30 calm windows"


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_unseen_topics_alarm_and_are_named(reference: Reference, share: float) -> None:
    for seed in range(5):
        rng = random.Random(seed)
        past, _ = calibrated(rng, reference)
        texts = traffic("abcdef", round(300 * (1 - share)), rng) + traffic("gh", round(300 * share), rng)
        rng.shuffle(texts)
        judged = drift_windows(texts, reference, embed, past, RULE)
        assert all(window.alarm for window in judged)
        assert all(text[0] in "gh" for window in judged for text in window.farthest)


def test_a_known_topic_that_takes_over_is_seen_by_the_mmd(reference: Reference) -> None:
    rng = random.Random(5)
    past, _ = calibrated(rng, reference)
    window = drift_windows(traffic("a", 100, rng), reference, embed, past, RULE)[0]
    assert window.mmd_z is not None
    assert window.mmd_z > 3


def test_only_the_shifted_windows_of_a_day_alarm(reference: Reference) -> None:
    rng = random.Random(7)
    past, _ = calibrated(rng, reference)
    texts = traffic("abcdef", 200, rng) + traffic("gh", 200, rng) + traffic("abcdef", 200, rng)
    assert [window.alarm for window in drift_windows(texts, reference, embed, past, RULE)] == [False, False, True, True, False, False]


def _level(novelty: float) -> Any:
    """Embeds every text at the given novelty from the axes of a 4-dimensional reference."""

    def at(texts: Sequence[str]) -> Vectors:
        cosine = 1 - novelty
        return np.tile(np.array([cosine, np.sqrt(1 - cosine**2), 0, 0], np.float32), (len(texts), 1))

    return at


def test_the_cusum_alarms_after_several_windows_that_do_not_alarm_alone() -> None:
    reference = Reference.of(np.eye(4, dtype=np.float32), RULE)
    first = drift_windows(["x"] * 100, reference, _level(0.2), Past(), RULE)[0]
    spread = np.random.default_rng(0).normal(0, 0.01, 40)
    past_novelty = [float(v) for v in first.novelty - 0.018 + spread - spread.mean()]
    past_mmd = [float(v) for v in first.mmd - 0.018 + spread - spread.mean()]
    cusum, statuses = 0.0, []
    for _ in range(5):
        window = drift_windows(["x"] * 100, reference, _level(0.2), Past(past_novelty, past_mmd, cusum), RULE)[0]
        cusum = window.cusum
        statuses.append(window.status)
    assert statuses[:2] == ["calm", "calm"]
    assert "alarm" in statuses


def test_windows_do_not_overlap_and_cover_everything() -> None:
    assert [len(part) for part in windows(450, 150)] == [150, 150, 150]
    assert [len(part) for part in windows(374, 150)] == [150, 224]
    assert [len(part) for part in windows(375, 150)] == [150, 150, 75]
    assert [len(part) for part in windows(20, 150)] == [20]
    assert windows(0, 150) == []


@given(n=st.integers(0, 2000), size=st.integers(2, 300))
def test_windows_partition_any_day(n: int, size: int) -> None:
    parts = windows(n, size)
    assert [i for part in parts for i in part] == list(range(n))
    assert all(size <= 2 * len(part) < 3 * size for part in parts[1:])


@given(st.permutations([f"{topic} {i}" for i, topic in enumerate("abcdefabcdef")]))
def test_statistics_do_not_depend_on_the_order_within_a_window(texts: list[str]) -> None:
    reference = Reference.of(embed([f"{t} {i}" for i, t in enumerate("abcdef" * 5, 100)]), RULE)
    first = drift_windows(sorted(texts), reference, embed, Past(), RULE)[0]
    other = drift_windows(texts, reference, embed, Past(), RULE)[0]
    assert (other.novelty, other.mmd) == pytest.approx((first.novelty, first.mmd), abs=1e-6)


def test_each_different_text_is_embedded_once(reference: Reference) -> None:
    asked: list[str] = []

    def counting(texts: Sequence[str]) -> Vectors:
        asked.extend(texts)
        return embed(texts)

    drift_windows(["a 1", "a 2", "a 1"] * 100, reference, counting, Past(), RULE)
    assert asked == ["a 1", "a 2"]


def test_the_mmd_is_unbiased(reference: Reference) -> None:
    values = [mmd_of(_unit(embed(traffic("abcdef", 100, random.Random(i), bursty=False))), reference) for i in range(60)]
    assert abs(float(np.mean(values))) < 3 * float(np.std(values)) / np.sqrt(60) + 0.002
    assert min(values) < 0


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_the_reference_is_drawn_the_same_from_any_order() -> None:
    texts = [f"t{i}" for i in range(500)]
    rule = DriftRule(reference_size=100)
    drawn = pick_reference(texts, rule)
    assert len(drawn) == len(set(drawn)) == 100
    assert pick_reference([*reversed(texts), "t1", " ", ""], rule) == drawn


def test_errors_say_what_was_received() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        DriftRule(window=1)
    with pytest.raises(InputError, match="at least 2 embeddings"):
        Reference.of(np.zeros((1, 4), np.float32))
    with pytest.raises(InputError, match="received shape"):
        drift_windows(["a"], Reference.of(np.eye(4, dtype=np.float32)), lambda texts: np.zeros((len(texts), 3), np.float32))


def land(home: Home, day: str, questions: list[str]) -> None:
    rows = [{"id": f"{day}{i}", "received_at": f"{day}T00:00:00+00:00", "question": text} for i, text in enumerate(questions)]
    home.lake.replace("interactions", day, pa.Table.from_pylist(rows, schema=SCHEMA))


def run_days(home: Home, days: dict[str, list[str]]) -> dict[str, str]:
    statuses = {}
    for day, questions in days.items():
        land(home, day, questions)
        report = drift_day(home, day, embed, RULE)
        home.lake.replace(TABLE, day, report.rows)
        statuses[day] = report.status
    return statuses


def test_days_calibrate_then_calm_days_pass_and_shifted_days_alarm(home: Home) -> None:
    rng = random.Random(3)
    pin(home, traffic("abcdef", 800, rng, bursty=False), embed, {"from": "test"}, RULE)
    calm = {f"2026-01-{d:02d}": traffic("abcdef", 400, rng, bursty=False) for d in range(1, 8)}
    shifted = {f"2026-01-{d:02d}": traffic("abcdefgh", 300, rng) for d in range(8, 11)}
    statuses = run_days(home, calm | shifted)
    assert list(statuses.values()) == ["calibrating"] * 5 + ["calm"] * 2 + ["alarm"] * 3
    report = drift_day(home, "2026-01-09", embed, RULE)
    assert home.lake.replace(TABLE, "2026-01-09", report.rows) == home.lake.version(TABLE, "2026-01-09"), "a rerun gives the same bytes"
    assert report.past == 28, "windows that alarmed are not the past"
    assert all(text[0] in "gh" for text in report.farthest)
    drift_figure(past_rows(home, "2026-02-01", report.reference), RULE)


def test_a_quiet_day_never_alarms(home: Home) -> None:
    rng = random.Random(3)
    pin(home, traffic("abcdef", 800, rng, bursty=False), embed, {"from": "test"}, RULE)
    run_days(home, {f"2026-01-{d:02d}": traffic("abcdef", 400, rng) for d in range(1, 7)})
    assert run_days(home, {"2026-01-08": traffic("gh", 30, rng), "2026-01-09": []}) == {
        "2026-01-08": "calibrating",
        "2026-01-09": "no_traffic",
    }


def test_without_a_corpus_the_first_day_of_traffic_is_the_reference(home: Home) -> None:
    rng = random.Random(4)
    with pytest.raises(MissingError, match="corpus_snapshot"):
        launch_reference(home, embed, RULE)
    statuses = run_days(home, {"2026-01-01": traffic("abcdef", 200, rng), "2026-01-02": traffic("abcdef", 200, rng)})
    assert statuses == {"2026-01-01": "no_traffic", "2026-01-02": "calibrating"}
    assert launch_reference(home, embed, RULE).info["day"] == "2026-01-01"


def test_the_reference_comes_from_the_snapshots_conversations_and_stays(home: Home) -> None:
    def snapshot(topic: str) -> None:
        turns = [json.dumps([{"role": "user", "content": f"{topic} {i}"}, {"role": "assistant", "content": "ok"}]) for i in range(250)]
        table = pa.table({"kind": ["conversation"] * 250 + ["article"], "messages": [*turns, None]})

        def make(folder: Path) -> dict[str, Any]:
            import pyarrow.parquet as pq

            pq.write_table(table, folder / "documents.parquet")
            return {}

        home.artifacts.build("corpus_snapshot", {"topic": topic}, make)

    snapshot("a")
    first = launch_reference(home, embed, RULE)
    assert set(reference_texts(first)) == {f"a {i}" for i in range(250)}
    snapshot("b")
    assert launch_reference(home, embed, RULE).id == first.id


@pytest.mark.slow
def test_banking77_unseen_intents_alarm_on_the_right_windows(banking77: Path) -> None:
    """Real questions of a real bank: traffic of 50 intents, then of the other 27, through the real embedder."""
    from llm_pipeline.retrieval.embedding import Embedder

    rows = [json.loads(line) for line in (banking77 / "train.jsonl").read_text("utf-8").splitlines()]
    rng = random.Random(0)
    intents = sorted({row["label"] for row in rows})
    rng.shuffle(intents)
    known, unseen = ([row["text"] for row in rows if row["label"] in set(part)] for part in (intents[:50], intents[50:]))
    rng.shuffle(known)
    rng.shuffle(unseen)
    rule = DriftRule(window=40)
    cut, calm_windows = 300, 24
    known, unseen = known[: cut + calm_windows * 40], unseen[:60]
    vectors = dict(zip([*known, *unseen], Embedder(threads=2).embed([*known, *unseen]), strict=True))

    def look_up(texts: Sequence[str]) -> Vectors:
        return np.stack([vectors[text] for text in texts])

    reference = Reference.of(look_up(pick_reference(known[:cut], rule)), rule)
    calm = known[cut:]
    past_windows = drift_windows(calm[: 20 * 40], reference, look_up, Past(), rule)
    past = Past([w.novelty for w in past_windows], [w.mmd for w in past_windows])
    mixed = unseen[40:] + calm[-20:]
    days = drift_windows([*calm[20 * 40 : 23 * 40], *unseen[:40], *mixed], reference, look_up, past, rule)
    assert [window.alarm for window in days] == [False, False, False, True, True]
    assert all(text in set(unseen) for text in days[3].farthest)
