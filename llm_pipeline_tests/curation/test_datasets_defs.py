"""The assets of the dataset half of curation, materialised on a small lake: versions, checks and metadata."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from llm_pipeline.curation import scrubbing
from llm_pipeline.curation.normalise import DOCUMENT_SCHEMA
from llm_pipeline.defs import curation_datasets
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.store import Home
from llm_pipeline_tests.curation.lake import document

DAILY = [curation_datasets.scrubbed_documents, curation_datasets.signatures]
ONCE = [curation_datasets.evaluation_suites, curation_datasets.corpus_snapshot, curation_datasets.sft_dataset]
DAY = "2026-01-01"


def filled(tmp_path: Path) -> Home:
    place = Home(tmp_path)
    rows = [document(DAY, "card", "The annual fee of the Harbor Card is $4.50.", "article")]
    for i in range(40):
        turns = [("Hi, my mail is bob@example.com.", "Thanks."), (f"Case {i}: what is the annual fee of the Harbor Card?", "$4.50")]
        rows.append(document(DAY, f"c{i}", "", "conversation", turns))
    place.lake.replace("filtered_documents", DAY, pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA))
    return place


def run(assets: list[dg.AssetsDefinition], place: Home, day: str | None = None) -> dg.ExecuteInProcessResult:
    return dg.materialize(assets, resources={"home": HomeResource(root=str(place.root))}, partition_key=day, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, object]:
    [event] = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset)]
    return {key: value.value for key, value in event.materialization.metadata.items()}


def test_the_stages_run_and_a_rerun_has_the_same_version(tmp_path: Path) -> None:
    place = filled(tmp_path)
    assert run(DAILY, place, DAY).success
    version = place.lake.version("scrubbed_documents", DAY)
    first = run(ONCE, place)
    assert first.success
    assert all(evaluation.passed for evaluation in first.get_asset_check_evaluations())
    assert len(first.get_asset_check_evaluations()) == 4
    again = run(DAILY, place, DAY)
    assert metadata(again, "scrubbed_documents")["spans"] == 40
    assert place.lake.version("scrubbed_documents", DAY) == version
    assert metadata(run(ONCE, place), "sft_dataset")["reused"] is True
    assert "bob@example.com" not in str(place.lake.read("scrubbed_documents").to_pylist())
    assert "bob@example.com" not in str(metadata(again, "scrubbed_documents"))


def test_a_day_that_still_holds_personal_data_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = filled(tmp_path)
    monkeypatch.setattr(scrubbing, "remaining", lambda rows, policy: {"EMAIL_ADDRESS": 1})
    result = run([curation_datasets.scrubbed_documents], place, DAY)
    assert not result.success
    assert [evaluation.passed for evaluation in result.get_asset_check_evaluations()] == [True, False]
    assert place.lake.days("scrubbed_documents") == []
