"""The whole graph against graph.json beside this file; after a wanted change: `pytest llm_pipeline_tests/defs --update-graph`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from llm_pipeline.definitions import defs

SNAPSHOT = Path(__file__).with_name("graph.json")
GROUPS = {"curation", "training", "evaluation", "retrieval", "serving", "monitoring", "governance"}


def graph() -> dict[str, Any]:
    repository = defs.get_repository_def()
    assets = {}
    for key in repository.asset_graph.get_all_asset_keys():
        node = repository.asset_graph.get(key)
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "daily": node.is_partitioned,
            "checks": sorted(check.name for check in repository.asset_graph.get_check_keys_for_assets({key})),
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
        }
    jobs = {
        job.name: sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys)
        for job in repository.get_all_jobs()
        if not job.name.startswith("__")
    }
    schedules = {s.name: {"cron": s.cron_schedule, "job": s.job_name, "status": s.default_status.value} for s in repository.schedule_defs}
    sensors = {s.name: {"jobs": sorted(t.job_name for t in s.targets), "status": s.default_status.value} for s in repository.sensor_defs}
    return {"assets": assets, "jobs": jobs, "schedules": schedules, "sensors": sensors}


def test_the_graph_is_as_recorded(request: pytest.FixtureRequest) -> None:
    now = json.dumps(graph(), indent=1, sort_keys=True) + "\n"
    if request.config.getoption("--update-graph"):
        SNAPSHOT.write_text(now)
    assert json.loads(now) == json.loads(SNAPSHOT.read_text()), "if the change is wanted: pytest llm_pipeline_tests/defs --update-graph"


def test_every_asset_has_a_group_an_owner_a_kind_and_a_description() -> None:
    nodes = [defs.get_repository_def().asset_graph.get(key) for key in defs.get_repository_def().asset_graph.get_all_asset_keys()]
    assert {node.group_name for node in nodes} == GROUPS
    bare = [node.key.to_user_string() for node in nodes if not (node.owners and node.kinds and node.description)]
    assert not bare


def test_the_code_location_loads_without_heavy_libraries() -> None:
    import subprocess
    import sys

    heavy = "torch transformers mlflow daft great_expectations sentence_transformers lancedb".split()
    code = f"import sys, llm_pipeline.definitions; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_training_is_serialised_by_its_pool() -> None:
    asset = defs.resolve_assets_def("sft_checkpoint")
    assert isinstance(asset, dg.AssetsDefinition)
    assert asset.op.pool == "training"
