"""The daily assets of curation on a small home: rerun, failure of one day and its repair, concurrent days, blocking checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from llm_pipeline.curation.sources import Source
from llm_pipeline.defs import curation
from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.store import Home

pytestmark = pytest.mark.filterwarnings("ignore")
DAYS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def landed(tmp_path: Path) -> Path:
    """A small strict source: two days, two notes each."""
    folder = tmp_path / "in"
    for day in DAYS:
        rows = [{"id": f"{day}-{i}", "kind": "note", "text": f"The night desk counted list number {i} on {day}."} for i in range(2)]
        (folder / day).mkdir(parents=True)
        (folder / day / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def sources(landed: Path, monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    found = [Source("notes", "files", "MIT", "me", "mine", uri=str(landed), policy="strict", languages=("en",))]
    monkeypatch.setattr(curation, "SOURCES", found)
    return found


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def _run(sources: list[Source], home: Home, instance: dg.DagsterInstance, day: str) -> dg.ExecuteInProcessResult:
    raw = [curation.raw_asset(source) for source in sources]
    return dg.materialize(
        [*raw, curation.documents_asset(sources), curation.filtered_documents],
        partition_key=day,
        resources={"home": HomeResource(root=str(home.root))},
        instance=instance,
        raise_on_error=False,
    )


def _versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string(): (event.tags or {})["dagster/data_version"] for event in events}


def test_a_rerun_gives_the_same_data_versions_and_every_check_holds(
    sources: list[Source], home: Home, instance: dg.DagsterInstance
) -> None:
    first = _run(sources, home, instance, DAYS[0])
    again = _run(sources, home, instance, DAYS[0])
    assert first.success
    assert _versions(first) == _versions(again)
    assert set(_versions(first)) == {"raw/notes", "documents", "filtered_documents"}
    checks = first.get_asset_check_evaluations()
    assert {check.check_name for check in checks} == {
        f"{table}_{kind}" for table in ("documents", "filtered_documents") for kind in ("contract", "reconcile")
    }
    assert all(check.passed for check in checks)
    assert home.lake.read("filtered_documents", [DAYS[0]]).num_rows == 2
    assert (home.reports / "contracts" / "documents" / f"{DAYS[0]}.html").exists()


def test_a_corrupt_strict_day_fails_alone_and_its_repair_mends_it(
    sources: list[Source], home: Home, instance: dg.DagsterInstance, landed: Path
) -> None:
    broken = landed / DAYS[1] / "notes.jsonl"
    good = broken.read_text()
    broken.write_text(good + '{"id": "cut')
    assert _run(sources, home, instance, DAYS[0]).success
    failed = _run(sources, home, instance, DAYS[1])
    assert not failed.success
    assert "notes.jsonl, row 3: invalid_json" in str(failed.failure_data_for_node("raw__notes"))
    assert home.lake.days("documents") == [DAYS[0]]
    broken.write_text(good)
    assert _run(sources, home, instance, DAYS[1]).success
    assert home.lake.days("filtered_documents") == list(DAYS)


def test_an_empty_day_is_a_success(sources: list[Source], home: Home, instance: dg.DagsterInstance) -> None:
    assert _run(sources, home, instance, "2026-01-09").success
    assert home.lake.read("filtered_documents", ["2026-01-09"]).num_rows == 0


def test_a_broken_contract_blocks_and_publishes_nothing(
    sources: list[Source], home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_pipeline.curation import contracts

    broken = (contracts.Expectation("ExpectTableRowCountToBeBetween", "never", {"min_value": 1000}),)
    monkeypatch.setattr(contracts, "load_contract", lambda table, path: broken)
    result = _run(sources, home, instance, DAYS[0])
    assert not result.success
    assert [check.passed for check in result.get_asset_check_evaluations() if check.check_name == "documents_contract"] == [False]
    assert home.lake.days("documents") == []
    assert home.lake.days("filtered_documents") == []


CHILD = """
import sys, json, dagster as dg
from pathlib import Path
from llm_pipeline.curation.readers import read_source
from llm_pipeline.curation.normalise import normalise
from llm_pipeline.curation.sources import Source
from llm_pipeline.store import Home
root, day = sys.argv[1:]
home = Home(Path(root))
source = Source("support", "generator", "MIT", "me", "mine", options={"documents_per_day": 60})
for _ in range(2):
    documents, ledger = normalise(read_source(source, home, day), day)
    home.lake.replace("documents_ledger", day, ledger)
    print(home.lake.replace("documents", day, documents))
"""


def test_two_days_at_once_do_not_disturb_each_other(home: Home, tmp_path: Path) -> None:
    def start(root: Path, day: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", CHILD, str(root), day]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def versions(process: subprocess.Popen[str]) -> set[str]:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return set(out.split())

    together = [start(home.root, day) for day in DAYS]
    found = [versions(process) for process in together]
    alone = [versions(start(tmp_path / "alone", day)) for day in DAYS]
    assert found == alone
    assert all(len(each) == 1 for each in found)
    assert home.lake.days("documents") == list(DAYS)


def test_one_raw_asset_per_declared_source() -> None:
    assert [key.to_user_string() for key in curation.RAW_KEYS] == [f"raw/{source.name}" for source in curation.SOURCES]
    assert {"raw/support", "raw/python_docs"} <= {key.to_user_string() for key in curation.RAW_KEYS}


def test_a_licence_in_plain_words_is_no_obstacle(tmp_path: Path) -> None:
    asset = curation.raw_asset(Source("mine", "files", "as granted (to the user)", "me", "given", uri=str(tmp_path)))
    assert asset.tags_by_key[asset.key]["licence"] == "as-granted-to-the-user-"
