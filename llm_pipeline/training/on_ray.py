"""One training run over the machines of a Ray cluster: Ray finds and reserves them, and on each one torchrun is started.

    ray job submit -- python -m llm_pipeline.training.on_ray --machines 2 --recipe r.yaml --data train.jsonl --base model --out run

The folders are on a file system that all machines share. The same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_pipeline.config import load
from llm_pipeline.training.launch import Machine, free_port, worker_command, worker_env
from llm_pipeline.training.recipe import Recipe


def bundle(recipe: Recipe) -> dict[str, int]:
    """What a machine must have to spare for its part."""
    return {"CPU": recipe.processes} | ({"GPU": recipe.processes} if recipe.device == "cuda" else {})


def meeting_place() -> str:
    """Where the first machine can be reached by the others."""
    import ray

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address}:{free_port()}"


def run_part(recipe: Recipe, arguments: Sequence[str], machine: Machine) -> int:
    """Start this machine's processes and wait for them; the exit code."""
    return subprocess.run(worker_command(recipe, arguments, machine), env=worker_env(recipe), check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--recipe", type=Path, required=True)
    options, rest = parser.parse_known_args(arguments)
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    recipe = replace(load(Recipe, options.recipe), launcher="torchrun", hostfile=None)
    ray.init(log_to_driver=True)
    group = placement_group([bundle(recipe)] * options.machines, strategy="STRICT_SPREAD")
    ray.get(group.ready())

    def on(rank: int, task: Any, cpus: int = 0) -> Any:
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        gpus = bundle(recipe).get("GPU", 0) if cpus else 0
        return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy=place)(task)

    address = ray.get(on(0, meeting_place).remote())
    given = ["--recipe", str(options.recipe), *rest]
    parts = [
        on(rank, run_part, recipe.processes).remote(recipe, given, Machine(rank, options.machines, address))
        for rank in range(options.machines)
    ]
    return max(ray.get(parts), key=abs)


if __name__ == "__main__":
    sys.exit(main())
