"""Starts the training process, listens while it runs, and leaves nothing behind, whatever is killed.

The child has its own session and dies with its parent; the parent polls, so that progress is live, and on any exception
(Terminate in the UI among them) asks the child to save, waits, and then kills what is left of its tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from llm_pipeline.errors import TrainingError
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


def worker_command(recipe: Recipe, arguments: Sequence[str]) -> list[str]:
    """The command line under the recipe's launcher; both pick a free port and start one process per rank."""
    bound = [sys.executable, "-m", "llm_pipeline.training.bound"]
    worker = ["-m", "llm_pipeline.training.worker", *arguments]
    if recipe.launcher == "deepspeed":
        workers = ["--num_gpus", str(recipe.processes), "--no_local_rank", "--master_port", str(_free_port()), "--module", *worker[1:]]
        return [*bound, "deepspeed.launcher.runner", *workers]
    return [*bound, "torch.distributed.run", "--standalone", "--nproc-per-node", str(recipe.processes), *worker]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def worker_env(recipe: Recipe, *, online: bool = False) -> dict[str, str]:
    """The environment of the worker: no network and no telemetry, and threads that don't fight over the cores."""
    threads = recipe.threads or max(1, len(os.sched_getaffinity(0)) // recipe.processes)
    env = dict(os.environ) | {
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
    }
    if recipe.device == "cpu":
        env |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        env.pop("ACCELERATE_USE_CPU", None)  # with it Accelerate silently trains without DeepSpeed
    if not online:
        env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return env


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
    poll = poll or Tail(progress, progress.stat().st_size if progress.exists() else 0)
    seen = 0

    def tick() -> None:
        nonlocal seen
        messages = poll()
        for message in messages[seen:]:
            on_message(message)
        seen = len(messages)

    log = work / "worker.log"
    code = run_worker(worker_command(recipe, [str(a) for a in arguments]), worker_env(recipe) | dict(env or {}), tick, log=log)
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
    retryable = state in ("interrupted", "running") or code == EX_TEMPFAIL or code < 0
    how = {"interrupted": "was interrupted and saved a checkpoint", "running": "was killed"}.get(state, "failed")
    detail = "a retry goes on from the last checkpoint" if retryable else tail
    return TrainingError(f"the training process {how} (exit code {code}, log {log}): {detail}", retryable=retryable)


def curve(work: Path) -> list[dict[str, Any]]:
    """The progress messages by step; where a resumed run repeated a step, its last report."""
    steps: dict[int, dict[str, Any]] = {}
    for message in Tail(work / "progress.jsonl")():
        if message.get("event") == "progress":
            steps[message["step"]] = dict(message)
    return [steps[step] for step in sorted(steps)]
