"""Starts the training process, listens while it runs, and leaves nothing behind, whatever is killed.

The child has its own session and dies with its parent; the parent polls, so that progress is live, and on any exception
(Terminate in the UI among them) asks the child to save, waits, and then kills what is left of its tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from llm_pipeline.errors import ConfigError, TrainingError
from llm_pipeline.store import write_atomically
from llm_pipeline.training.interrupt import EX_TEMPFAIL
from llm_pipeline.training.recipe import Recipe

Message = Mapping[str, Any]
Poll = Callable[[], Sequence[Message]]


def run_worker(
    command: Sequence[str],
    env: Mapping[str, str],
    tick: Callable[[], None] = lambda: None,
    *,
    log: Path,
    grace: float = 60.0,
    interval: float = 0.3,
) -> int:
    """Run `command`, its output into `log`, calling `tick` every `interval` seconds; return its exit code.

    An exception, also one out of `tick`, interrupts the child, which has `grace` seconds to save before it is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(list(command), env=dict(env), stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        while process.poll() is None:
            tick()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(interval)
        tick()
        return process.returncode
    except BaseException:
        stop_tree(process, grace)
        raise


def stop_tree(process: subprocess.Popen[bytes], grace: float) -> None:
    """Interrupt the process group, wait up to `grace` seconds, and kill whatever is left, also in other sessions."""
    tree = _descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    psutil.wait_procs(tree, timeout=5)
    for left in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


@dataclass
class Tail:
    """The progress messages that the worker appends to a file, from byte `offset` on."""

    path: Path
    offset: int = 0
    messages: list[Message] = field(default_factory=list)

    def __call__(self) -> Sequence[Message]:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offset += len(line)
                    self.messages.append(json.loads(line))
        return self.messages


@dataclass(frozen=True)
class Machine:
    """This machine's place among several, each of which starts its own launcher; they meet at `address` (`host:port` of the first)."""

    rank: int
    count: int
    address: str


def worker_command(recipe: Recipe, arguments: Sequence[str], machine: Machine | None = None) -> list[str]:
    """The command line under the recipe's launcher, which starts one process per rank.

    With a hostfile DeepSpeed reaches all machines from here (pdsh); with `machine` it is the part of one of them, to be started
    there by Slurm, Ray, Kubernetes or hand. Otherwise everything runs here, on a free port.
    """
    bound = [sys.executable, "-m", "llm_pipeline.training.bound"]
    worker = ["-m", "llm_pipeline.training.worker", *arguments]
    if recipe.launcher == "deepspeed":
        return [*bound, "deepspeed.launcher.runner", *_deepspeed_options(recipe, machine), "--no_local_rank", "--module", *worker[1:]]
    if machine is not None:
        host, _, port = machine.address.rpartition(":")
        place = ["--nnodes", str(machine.count), "--node-rank", str(machine.rank), "--master-addr", host, "--master-port", port]
    elif recipe.hostfile:
        raise ConfigError(
            f"hostfile {recipe.hostfile} with launcher torchrun, which reaches no other machine: expected launcher deepspeed, "
            "or torchrun started on each machine (infra/slurm, infra/ray, infra/kubernetes)"
        )
    else:
        place = ["--standalone"]
    return [*bound, "torch.distributed.run", *place, "--nproc-per-node", str(recipe.processes), *worker]


def _deepspeed_options(recipe: Recipe, machine: Machine | None) -> list[str]:
    if recipe.hostfile is None:
        if machine is not None:
            raise ConfigError("launcher deepspeed on several machines: expected hostfile, the list of all of them")
        return ["--num_gpus", str(recipe.processes), "--master_port", str(free_port())]
    hosts = read_hostfile(Path(recipe.hostfile))
    if wrong := [f"{host} slots={slots}" for host, slots in hosts.items() if slots != recipe.processes]:
        raise ConfigError(f"{recipe.hostfile}: {wrong[0]}, expected slots={recipe.processes} on every line as the recipe's processes")
    options = ["--hostfile", str(Path(recipe.hostfile).resolve())]
    if machine is None:
        port = str(free_port()) if len(hosts) == 1 else "29500"
        return [*options, "--master_addr", next(iter(hosts)), "--master_port", port]
    host, _, port = machine.address.rpartition(":")
    return [*options, "--no_ssh", "--node_rank", str(machine.rank), "--master_addr", host, "--master_port", port]


def read_hostfile(path: Path) -> dict[str, int]:
    """Processes by machine, from lines of `name slots=N`."""
    if not path.is_file():
        raise ConfigError(f"hostfile {path}: no such file; expected lines of `name slots=N`")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"(\S+)\s+slots=([1-9]\d*)", text)
        if found is None or found[1] in hosts:
            raise ConfigError(f"{path}:{number}: expected `name slots=N`, every name once, received {line!r}")
        hosts[found[1]] = int(found[2])
    if not hosts:
        raise ConfigError(f"hostfile {path}: no machines; expected lines of `name slots=N`")
    return hosts


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def worker_env(recipe: Recipe, *, online: bool = False) -> dict[str, str]:
    """The environment of the worker: this process's own and `settings`."""
    env = dict(os.environ) | settings(recipe, online=online)
    if recipe.device == "cpu":
        env.pop("ACCELERATE_USE_CPU", None)  # with it Accelerate silently trains without DeepSpeed
    return env


def settings(recipe: Recipe, *, online: bool = False) -> dict[str, str]:
    """No network and no telemetry, and threads that don't fight over the cores: the same on every machine."""
    threads = recipe.threads or max(1, len(os.sched_getaffinity(0)) // recipe.processes)
    cpu = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} if recipe.device == "cpu" else {}
    offline = {} if online else {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        # glibc gives large blocks back to the kernel at every step otherwise: 71 s of system time in 242 steps, 16 s with this.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONUNBUFFERED": "1",
        **cpu,
        **offline,
    }


def train(
    recipe: Recipe,
    *,
    data: Path,
    base: Path,
    work: Path,
    validation: Path | None = None,
    on_message: Callable[[Message], None] = lambda _: None,
    env: Mapping[str, str] | None = None,
    poll: Poll | None = None,
) -> Path:
    """Fine-tune `base` on the rows of `data`, going on from the last whole checkpoint in `work`; return the result's folder.

    `poll` gives all messages so far (default: the worker's progress file); `env` is added to the worker's environment.
    Raises TrainingError, `retryable` when another call would go on where this one ended.
    """
    work.mkdir(parents=True, exist_ok=True)
    result = work / "result"
    if result.exists():
        return result
    write_atomically(work / "recipe.yaml", yaml.safe_dump(asdict(recipe)))
    (work / "status.json").unlink(missing_ok=True)
    arguments = ["--recipe", work / "recipe.yaml", "--data", data, "--base", base, "--out", work]
    arguments += ["--validation", validation] if validation else []
    progress = work / "progress.jsonl"
    environment = worker_env(recipe) | dict(env or {})
    if recipe.hostfile:  # the first process may be on another machine: it is heard through the shared folder, and told by file
        poll = None
        write_atomically(work / "environment", "".join(f"{key}={value}\n" for key, value in settings(recipe).items()))
        environment["DS_ENV_FILE"] = str((work / "environment").resolve())
    poll = poll or Tail(progress, progress.stat().st_size if progress.exists() else 0)
    seen = 0

    def tick() -> None:
        nonlocal seen
        messages = poll()
        for message in messages[seen:]:
            on_message(message)
        seen = len(messages)

    log = work / "worker.log"
    code = run_worker(worker_command(recipe, [str(a) for a in arguments]), environment, tick, log=log)
    if code or not result.exists():
        raise _failure(code, work, log)
    return result


def _failure(code: int, work: Path, log: Path) -> TrainingError:
    """What went wrong, in the worker's own words where it had any; a kill or an interruption can be retried."""
    try:
        status: dict[str, Any] = json.loads((work / "status.json").read_text("utf-8"))
    except (OSError, ValueError):
        status = {"state": "not started"}
    state = status["state"]
    tail = status.get("error") or log.read_text("utf-8", errors="replace")[-3000:]
    stopped = state in ("interrupted", "running") or code == EX_TEMPFAIL or code < 0
    how = {"interrupted": "was interrupted and saved a checkpoint", "running": "was killed"}.get(state, "failed")
    detail = "a retry goes on from the last checkpoint" if stopped else tail
    retryable = stopped or bool(status.get("retryable"))
    return TrainingError(f"the training process {how} (exit code {code}, log {log}): {detail}", retryable=retryable)


def curve(work: Path) -> list[dict[str, Any]]:
    """The progress messages by step; where a resumed run repeated a step, its last report."""
    steps: dict[int, dict[str, Any]] = {}
    for message in Tail(work / "progress.jsonl")():
        if message.get("event") == "progress":
            steps[message["step"]] = dict(message)
    return [steps[step] for step in sorted(steps)]
