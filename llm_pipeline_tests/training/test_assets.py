"""The assets in Dagster: progress is seen while it runs, everything is versioned, a second run reuses."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from llm_pipeline.defs.resources import HomeResource
from llm_pipeline.defs.training import base_model, candidate_model, defs, sft_checkpoint, tokenizer
from llm_pipeline.store import Home
from llm_pipeline.training.tracking import REGISTERED_MODEL, client

RECIPE = {"max_steps": 40, "batch_size": 2, "max_length": 96, "save_steps": 20, "threads": 1, "lora": {"r": 4, "alpha": 8}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_training_streams_into_the_asset_and_ends_in_the_registry(home: Home, small_base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "base": str(small_base)}))
    config = {"recipe": str(recipe)}
    run_config = {"ops": {name: {"config": config} for name in ("tokenizer", "base_model", "sft_checkpoint")}}
    resources = {"home": HomeResource(root=str(home.root))}
    assets = [tokenizer, base_model, sft_checkpoint, candidate_model]
    with dg.instance_for_test() as instance:
        run = dg.materialize(assets, instance=instance, resources=resources, run_config=run_config)
        assert run.success
        checkpoint = dg.AssetKey("sft_checkpoint")
        seen = instance.fetch_observations(checkpoint, limit=100).records
        made = instance.get_latest_materialization_event(checkpoint)
        assert [int(r.asset_observation.metadata["step"].value) for r in reversed(seen)] == list(range(5, 41, 5))
        assert made is not None
        assert seen[-1].timestamp < made.timestamp - 0.1
        metadata = run.asset_materializations_for_node("sft_checkpoint")[0].metadata
        assert {"loss_curve", "tokens_per_second", "data_versions", "recipe", "mlflow_run_id", "reused"} <= metadata.keys()
        again = dg.materialize(assets, instance=instance, resources=resources, run_config=run_config)
        assert all(
            again.asset_materializations_for_node(name)[0].metadata["reused"].value
            for name in ("base_model", "sft_checkpoint", "candidate_model")
        )
    candidate = home.artifacts.named("candidate_model")
    registry = client(home.mlflow_uri)
    version = registry.get_model_version_by_alias(REGISTERED_MODEL, "challenger")
    assert version.tags["candidate"] == candidate.id
    assert version.tags["sft_dataset"] == home.artifacts.named("sft_dataset").id
    history = registry.get_metric_history(candidate.info["mlflow_run_id"], "loss")
    assert [metric.step for metric in history][-1] == 40
    assert len(registry.search_model_versions(f"name = '{REGISTERED_MODEL}'")) == 1


def test_every_asset_is_described_and_owned() -> None:
    for asset in defs.assets or []:
        assert isinstance(asset, dg.AssetsDefinition)
        spec = next(iter(asset.specs))
        assert (spec.group_name, bool(spec.description), bool(spec.owners), bool(spec.kinds)) == ("training", True, True, True)
