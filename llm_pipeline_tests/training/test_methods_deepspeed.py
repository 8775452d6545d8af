"""DeepSpeed takes part in every method: one process, all trainers in turn, its engine seen at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_pipeline.training.launch import worker_env
from llm_pipeline.training.recipe import Recipe

CASES = ["full:2", "full:3", "qlora:2", "prompt:2", "dpo:2", "kto:1", "reward:2", "distill:2", "continue:2"]
PROGRAM = """
import json, sys
from pathlib import Path
from llm_pipeline_tests.training.methods import finish, prepared, small
base, out = Path(sys.argv[1]), Path(sys.argv[2])
for case in sys.argv[3:]:
    name, stage = case.split(":")
    recipe, messages = small(name, base, f"zero_stage={stage}", "max_steps=2", "learning_rate=0.001"), []
    trainer = prepared(recipe, base, out / case.replace(":", "-"), messages)
    result = finish(trainer, recipe, out / case.replace(":", "-"))
    engine = trainer.model_wrapped
    print(json.dumps({
        "case": case, "engine": type(engine).__name__, "stage": engine.zero_optimization_stage(),
        "losses": [m["loss"] for m in messages if m["event"] == "progress"], "files": sorted(p.name for p in result.rglob("*.safetensors")),
    }), flush=True)
"""


@pytest.mark.slow
def test_deepspeeds_engine_trains_every_method(small_base: Path, tmp_path: Path) -> None:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    environment = {**os.environ, **worker_env(Recipe(threads=1)), **alone}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(small_base), str(tmp_path), *CASES]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"case"')]
    assert [entry["case"] for entry in told] == CASES
    for entry in told:
        assert entry["engine"] == "DeepSpeedEngine", entry
        assert entry["stage"] == int(entry["case"].partition(":")[2]), entry
        assert len(entry["losses"]) == 2, entry
        assert entry["files"] in (["model.safetensors"], ["adapter_model.safetensors"]), entry
