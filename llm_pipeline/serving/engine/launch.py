"""Becomes another program that dies with its parent, with all that it started, and stays under a memory limit: any engine.

python -m llm_pipeline.serving.engine.launch --parent PID [--memory-megabytes N] -- vllm serve MODEL ...
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys

from llm_pipeline.serving.supervision.processes import die_with, signal_when_parent_ends


def limit_memory(megabytes: int) -> None:
    """An allocation beyond the limit fails in this program alone, instead of taking the machine's memory from its neighbours."""
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def hear_signals() -> None:
    """An engine is asked to end by SIGTERM, also where whoever started us ignored or blocked it, which a program inherits."""
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def leave_nothing() -> None:
    """A process group of our own, and in it a child that ends all of it when we end, however: vLLM's workers outlive a killed server."""
    if not sys.platform.startswith("linux"):
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    ends = signal.SIGUSR1
    signal.pthread_sigmask(signal.SIG_BLOCK, {ends})
    us = os.getpid()
    if os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {ends})
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # for the engine; the guard ends after it
    signal_when_parent_ends(ends)
    if os.getppid() == us:  # else it died before we asked
        signal.sigwait({ends})
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, help="end when this process does")
    parser.add_argument("--memory-megabytes", type=int)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    line = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not line:
        parser.error("expected a command after --")
    die_with(options.parent)
    hear_signals()
    leave_nothing()
    if options.memory_megabytes:
        limit_memory(options.memory_megabytes)
    os.execvp(line[0], line)  # the kernel keeps both over the exec


if __name__ == "__main__":
    main()
