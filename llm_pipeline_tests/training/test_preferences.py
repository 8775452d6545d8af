"""Preference pairs: every mistake is of the kind that it is called, feedback becomes pairs, and validation stays clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from llm_pipeline.curation.feedback import feedback_pairs
from llm_pipeline.curation.preferences import Mistakes, PreferenceMix, build_preferences, leaks, problems, singles
from llm_pipeline.curation.sft import build_sft
from llm_pipeline.curation.snapshot import build_snapshot
from llm_pipeline.curation.support.world import REFUSAL
from llm_pipeline.defs import curation_datasets
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.store import Artifact, Home, write_jsonl
from llm_pipeline.training.rows import read_rows
from llm_pipeline_tests.curation.test_sft import corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Artifact, Artifact, Artifact]:
    place = corpus(tmp_path_factory.mktemp("lake"))
    snapshot = build_snapshot(place)
    dataset = build_sft(place, snapshot, seed=3)
    return place, snapshot, dataset, build_preferences(place, dataset, snapshot)


def test_pairs_keep_the_right_answer_and_their_part(made: tuple[Home, Artifact, Artifact, Artifact]) -> None:
    _, _, dataset, preferences = made
    train, validation = preferences.jsonl("train.jsonl"), preferences.jsonl("validation.jsonl")
    assert train
    assert validation
    assert problems([*train, *validation]) == []
    assert leaks(train, validation) == []
    for part, rows in (("train", train), ("validation", validation)):
        right = {row["id"]: row["messages"] for row in dataset.jsonl(f"{part}.jsonl")}
        assert all(right[row["source"]] == [*row["prompt"], {"role": "assistant", "content": row["chosen"]}] for row in rows)


def test_every_mistake_is_what_it_is_called(made: tuple[Home, Artifact, Artifact, Artifact]) -> None:
    train = made[3].jsonl("train.jsonl")
    kinds = {row["kind"] for row in train}
    assert {"wrong_value", "invention", "refusal"} <= kinds
    assert all((row["chosen"] == REFUSAL) == (row["kind"] == "invention") for row in train)
    assert all((row["rejected"] == REFUSAL) == (row["kind"] == "refusal") for row in train)


def test_a_value_of_old_conversations_is_the_stale_one(made: tuple[Home, Artifact, Artifact, Artifact]) -> None:
    """The Harbor Card's fee was $20.50 on the first day and its article says $99.25 on the second."""
    _, snapshot, _, _ = made
    mistakes = Mistakes(pq.read_table(snapshot.file("documents.parquet")).to_pylist(), 0, PreferenceMix())
    question = "Number 7: what is the annual fee of the Harbor Card?"
    row = {
        "id": "x", "kind": "closed", "cluster_id": "c",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "$99.25"}],
    }  # fmt: skip
    [pair] = mistakes.pairs([row])
    assert (pair["kind"], pair["chosen"], pair["rejected"]) == ("stale", "$99.25", "$20.50")


def test_the_same_inputs_give_the_same_pairs_and_another_seed_others(
    made: tuple[Home, Artifact, Artifact, Artifact], tmp_path: Path
) -> None:
    place, snapshot, dataset, preferences = made
    assert build_preferences(place, dataset, snapshot).reused
    elsewhere = build_preferences(Home(tmp_path), dataset, snapshot)
    assert elsewhere.id == preferences.id
    assert elsewhere.jsonl("train.jsonl") == preferences.jsonl("train.jsonl")
    assert build_preferences(Home(tmp_path), dataset, snapshot, seed=1).jsonl("train.jsonl") != preferences.jsonl("train.jsonl")


def test_the_files_are_rows_of_dpo_reward_and_kto(made: tuple[Home, Artifact, Artifact, Artifact]) -> None:
    preferences = made[3]
    pairs = read_rows(preferences.file("train.jsonl"), "dpo")
    assert read_rows(preferences.file("validation.jsonl"), "reward")
    liked = read_rows(preferences.file("liked_train.jsonl"), "kto")
    assert len(liked) == 2 * len(pairs)
    assert sum(row["label"] for row in liked) == len(pairs)


def _interaction(identity: str, question: str, answer: str, **feedback: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "question": question,
        "answer": answer,
        "messages": json.dumps([{"role": "user", "content": question}]),
        **feedback,
    }


def test_feedback_becomes_pairs_and_what_cannot_is_counted() -> None:
    fee, hours = "What is the annual fee of the Harbor Card?", "What are the support hours of the Harbor Card?"
    rows = [
        _interaction("1", fee, "$1", correction="$99.25"),
        _interaction("2", hours, "8:00", rating=1),
        _interaction("3", hours, "9:00", rating=-1),
        _interaction("4", fee, "$99.25", correction="$99.25"),
        _interaction("5", "Is the moon a bank?", "yes", rating=-1),
        _interaction("6", "My mail is bob@example.com, what is the fee?", "$1", correction="$99.25"),
        _interaction("7", fee, "$1"),
    ]
    pairs, unused = feedback_pairs(rows)
    assert [(pair["chosen"], pair["rejected"], pair["kind"]) for pair in pairs] == [
        ("$99.25", "$1", "feedback"),
        ("8:00", "9:00", "feedback"),
    ]
    assert unused == {"correction_is_the_answer": 1, "no_counterpart": 1, "personal_data": 1}
    assert feedback_pairs(rows[::-1]) == (pairs, unused)
    assert feedback_pairs([_interaction("8", fee, "$1")]) == ([], {})


def test_feedback_enters_training_and_never_a_validation_question(made: tuple[Home, Artifact, Artifact, Artifact], tmp_path: Path) -> None:
    _, snapshot, dataset, preferences = made
    asked = preferences.jsonl("validation.jsonl")[0]["prompt"][-1]["content"].rsplit("Question: ", 1)[-1]
    rows = [_interaction("1", asked, "$1", correction="$2"), _interaction("2", "What is the fee of the Moon Card?", "$1", correction="$2")]
    built = build_preferences(Home(tmp_path), dataset, snapshot, rows)
    said = [row for row in built.jsonl("train.jsonl") if row["kind"] == "feedback"]
    assert [row["source"] for row in said] == ["2"]
    assert built.id != preferences.id


def test_a_pair_is_two_single_answers(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": [{"role": "user", "content": "Fee?"}], "chosen": "$5", "rejected": "$6", "kind": "feedback"}
    write_jsonl(tmp_path / "rows.jsonl", list(singles(row)))
    assert [(r["completion"][0]["content"], r["label"]) for r in read_rows(tmp_path / "rows.jsonl", "kto")] == [("$5", True), ("$6", False)]


def test_the_asset_is_checked_and_versioned(tmp_path: Path) -> None:
    place = corpus(tmp_path)
    build_sft(place, build_snapshot(place), seed=3)
    runs = [
        dg.materialize([curation_datasets.preference_dataset], resources={"home": HomeResource(root=str(place.root))}) for _ in range(2)
    ]
    assert [check.passed for check in runs[0].get_asset_check_evaluations()] == [True, True]
    [first, again] = [run.asset_materializations_for_node("preference_dataset")[0] for run in runs]
    assert first.metadata["train"].value > first.metadata["validation"].value > 0
    assert (first.metadata["reused"].value, again.metadata["reused"].value) == (False, True)
    assert first.tags["dagster/data_version"] == again.tags["dagster/data_version"]
