"""The manifests under infra/ start exactly what the library would start on each machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_pipeline.paths import PROJECT
from llm_pipeline.training.launch import Machine, settings, worker_command
from llm_pipeline.training.on_ray import bundle
from llm_pipeline.training.recipe import Recipe

INFRA = PROJECT / "infra"
GPUS = Recipe(batch_size=16, processes=8, device="cuda")
FILES = {"--recipe": "/training/recipe.yaml", "--data": "/training/train.jsonl", "--base": "/training/base", "--out": "/training/run"}
ARGUMENTS = [word for pair in FILES.items() for word in pair]


def expected(machine: Machine) -> list[str]:
    return ["python", *worker_command(GPUS, ARGUMENTS, machine)[1:]]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def test_kubernetes_starts_torchrun_in_each_pod() -> None:
    service, job = documents("kubernetes/train.yaml")
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    name, port = job["metadata"]["name"], service["spec"]["ports"][0]["port"]
    first = f"{name}-0.{service['metadata']['name']}"  # how pods of an Indexed Job with a subdomain are called
    assert spec["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": name}
    command = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["command"]]
    assert command == expected(Machine(1, job["spec"]["completions"], f"{first}:{port}"))
    assert container["resources"]["limits"]["nvidia.com/gpu"] == GPUS.processes
    assert job["spec"]["parallelism"] == job["spec"]["completions"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    for key in values.keys() & settings(GPUS).keys() - {"OMP_NUM_THREADS"}:
        assert values[key] == settings(GPUS)[key], key


def run_slurm(tmp_path: Path, status: str, code: int) -> tuple[list[str], int]:
    """What the batch script calls, its tools replaced by ones that write down what they are asked for; and its exit code."""
    tools, log = tmp_path / "bin", tmp_path / "log"
    tools.mkdir()
    scripts = {
        "scontrol": f'[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "scontrol $*" >> {log}',
        "srun": f'shift; "$@"; exit {code}',
        "python": f'echo "python $*" >> {log}',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{script}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text(status)
    env = {
        "PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "5", "SLURM_NNODES": "2",
        "SLURM_NODEID": "1", "SLURM_CPUS_PER_TASK": "64", "OUT": str(tmp_path / "run"),
        **{name.strip("-").upper(): value for name, value in FILES.items() if name != "--out"},
    }  # fmt: skip
    done = subprocess.run(["bash", str(INFRA / "slurm/train.sbatch")], env=env, check=False)
    return log.read_text().splitlines(), done.returncode


def test_slurm_starts_torchrun_on_each_node(tmp_path: Path) -> None:
    calls, code = run_slurm(tmp_path, '{"state": "done"}', 0)
    wanted = shlex.join(expected(Machine(1, 2, "node1:20005"))).replace("/training/run", str(tmp_path / "run"))
    assert (calls, code) == ([wanted], 0)


def test_slurm_queues_an_interrupted_run_again(tmp_path: Path) -> None:
    calls, code = run_slurm(tmp_path, '{"state": "interrupted"}', 1)
    assert (calls[1:], code) == (["scontrol requeue 5"], 1)


def test_slurm_leaves_a_failed_run(tmp_path: Path) -> None:
    calls, code = run_slurm(tmp_path, '{"state": "failed"}', 1)
    assert (len(calls), code) == (1, 1)


def test_slurm_asks_for_what_it_uses() -> None:
    text = (INFRA / "slurm/train.sbatch").read_text()
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", text))
    assert (asked["ntasks-per-node"], asked["signal"], asked["gpus-per-node"]) == ("1", "TERM@120", "8")
    assert "PROCESSES:-8" in text
    subprocess.run(["bash", "-n", str(INFRA / "slurm/train.sbatch")], check=True)


def test_ray_reserves_a_machine_for_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = documents("ray/train.yaml")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "llm_pipeline.training.on_ray"]
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert words[words.index("--machines") + 1] == str(workers["replicas"])
    assert [*words[5:]] == ARGUMENTS
    limits = workers["template"]["spec"]["containers"][0]["resources"]
    assert bundle(GPUS) == {"CPU": 8, "GPU": limits["limits"]["nvidia.com/gpu"]}
    assert float(limits["requests"]["cpu"]) >= bundle(GPUS)["CPU"]


def test_parts_meet_at_the_first() -> None:
    command = worker_command(GPUS, ARGUMENTS, Machine(0, 3, "10.0.0.7:4001"))
    assert command[0] == sys.executable
    assert Path(command[0]).exists()
    assert "--nnodes 3 --node-rank 0 --master-addr 10.0.0.7 --master-port 4001 --nproc-per-node 8" in " ".join(command)
