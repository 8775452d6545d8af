"""Launchers, ZeRO stages and numbers of processes and machines change how a model is trained, not what it becomes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llm_pipeline.errors import ConfigError
from llm_pipeline.store import write_atomically, write_jsonl
from llm_pipeline.training.launch import Machine, curve, free_port, read_hostfile, train, worker_command, worker_env
from llm_pipeline.training.recipe import Recipe
from llm_pipeline_tests.training.conftest import QUICK, rows

noisy = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # PEFT asks by the old name
STEPS = 6
SHORT = replace(QUICK, max_steps=STEPS, logging_steps=1, evaluation_rows=0, batch_size=4)
Trained = tuple[list[float], dict[str, torch.Tensor]]


def outcome(work: Path) -> Trained:
    """The loss of every step and the adapter."""
    assert list(work.glob("checkpoint-*/global_step*")), "DeepSpeed wrote the checkpoint"
    return [point["loss"] for point in curve(work)], load_file(work / "result" / "adapter" / "adapter_model.safetensors")


def trained(base: Path, folder: Path, recipe: Recipe) -> Trained:
    write_jsonl(folder / "train.jsonl", rows())
    train(recipe, data=folder / "train.jsonl", base=base, work=folder / "work")
    return outcome(folder / "work")


def assert_same_model(one: Trained, other: Trained) -> None:
    assert len(one[0]) == STEPS
    assert one[0] == pytest.approx(other[0], rel=0.02)
    assert one[1].keys() == other[1].keys()
    for name, weights in one[1].items():
        assert weights.shape == other[1][name].shape, name
        assert torch.nn.functional.cosine_similarity(weights.flatten().float(), other[1][name].flatten().float(), dim=0) > 0.97, name


@pytest.fixture(scope="module")
def alone(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(small_base, tmp_path_factory.mktemp("alone"), SHORT)


@noisy
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"launcher": "deepspeed", "zero_stage": 1, "offload": "optimizer", "accumulation": 2},
        {"processes": 4},
        {"processes": 2, "zero_stage": 3, "offload": "parameters", "gradient_checkpointing": True},
    ],
    ids=["deepspeed-1-offload", "torchrun-4", "zero3-offload-recompute"],
)
def test_it_becomes_the_same_model(small_base: Path, tmp_path: Path, alone: Trained, changes: dict[str, Any]) -> None:
    assert_same_model(trained(small_base, tmp_path, replace(SHORT, **changes)), alone)


@noisy
@pytest.mark.slow
def test_two_machines_each_with_its_own_torchrun(small_base: Path, tmp_path: Path, alone: Trained) -> None:
    """Both are this machine; what Slurm, Ray and Kubernetes start on each node."""
    data, work = tmp_path / "train.jsonl", tmp_path / "work"
    write_jsonl(data, rows())
    write_atomically(work / "recipe.yaml", yaml.safe_dump(asdict(SHORT)))
    arguments = [f"--recipe={work / 'recipe.yaml'}", f"--data={data}", f"--base={small_base}", f"--out={work}"]
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("w") as log:
        agents = [
            subprocess.Popen(worker_command(SHORT, arguments, Machine(rank, 2, address)), env=worker_env(SHORT), stdout=log, stderr=log)
            for rank in range(2)
        ]
        assert [agent.wait(300) for agent in agents] == [0, 0], (tmp_path / "log").read_text()[-3000:]
    assert_same_model(outcome(work), alone)


PDSH = """#!/bin/bash
# pdsh for machines that are all this one: -w a,b COMMAND, with %n the number of the machine
while [ "$1" != "-w" ]; do shift; done
IFS=, read -ra hosts <<< "$2"; shift 2
for i in "${!hosts[@]}"; do bash -c "${*//%n/$i}" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "${code:-0}"
"""


@noisy
@pytest.mark.slow
def test_machines_of_a_hostfile(small_base: Path, tmp_path: Path, alone: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's launcher for several machines, its remote shell replaced by a local one; it also asks ssh whether they are there."""
    tools = tmp_path / "bin"
    for name, script in {"pdsh": PDSH, "ssh": "#!/bin/bash\nexit 0\n"}.items():
        write_atomically(tools / name, script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tmp_path / "hosts").write_text("localhost slots=1\n127.0.0.1 slots=1  # the other\n")
    recipe = replace(SHORT, launcher="deepspeed", hostfile=str(tmp_path / "hosts"))
    assert_same_model(trained(small_base, tmp_path, recipe), alone)


def test_hostfile_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    recipe = Recipe(launcher="deepspeed", processes=4, hostfile=str(path))
    with pytest.raises(ConfigError, match=r"hosts: no such file; expected lines of `name slots=N`"):
        worker_command(recipe, [])
    path.write_text("one slots=4\ntwo slots=2\n")
    assert read_hostfile(path) == {"one": 4, "two": 2}
    with pytest.raises(ConfigError, match=r"two slots=2, expected slots=4"):
        worker_command(recipe, [])
    path.write_text("one slots=4\none slots=4\n")
    with pytest.raises(ConfigError, match=r"hosts:2: expected `name slots=N`, every name once"):
        worker_command(recipe, [])
    with pytest.raises(ConfigError, match="launcher torchrun, which reaches no other machine"):
        worker_command(replace(recipe, launcher="torchrun"), [])


def test_hostfile_names_the_first_machine_as_meeting_place(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# two\none slots=4\ntwo slots=4\n")
    recipe = Recipe(batch_size=8, launcher="deepspeed", processes=4, hostfile=str(path))
    command = " ".join(worker_command(recipe, ["--out", "x"]))
    assert f"--hostfile {path} --master_addr one --master_port 29500 --no_local_rank --module llm_pipeline" in command
    part = " ".join(worker_command(recipe, [], Machine(1, 2, "one:4000")))
    assert f"--hostfile {path} --no_ssh --node_rank 1 --master_addr one --master_port 4000" in part


ON_RAY = """
import os, sys
from ray.cluster_utils import Cluster
options = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=options | {"include_dashboard": False})
cluster.add_node(**options)
os.environ["RAY_ADDRESS"] = cluster.address
from llm_pipeline.training.on_ray import main
sys.exit(main(sys.argv[1:]))
"""


@noisy
@pytest.mark.slow
def test_two_machines_of_a_ray_cluster(small_base: Path, tmp_path: Path, alone: Trained) -> None:
    pytest.importorskip("ray", reason="Ray is in the extra `ray`")
    data, work = tmp_path / "train.jsonl", tmp_path / "work"
    write_jsonl(data, rows())
    write_atomically(work / "recipe.yaml", yaml.safe_dump(asdict(SHORT)))
    arguments = ["--machines", "2", "--recipe", work / "recipe.yaml", "--data", data, "--base", small_base, "--out", work]
    environment = dict(os.environ) | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_model(outcome(work), alone)
