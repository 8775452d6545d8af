"""Becomes another program that dies with its parent and stays under a memory limit: any engine, whatever it knows of us.

python -m llm_pipeline.serving.engine.launch --parent PID [--memory-megabytes N] -- vllm serve MODEL ...
"""

from __future__ import annotations

import argparse
import os
import resource

from llm_pipeline.serving.supervision.processes import die_with


def limit_memory(megabytes: int) -> None:
    """An allocation beyond the limit fails in this program alone, instead of taking the machine's memory from its neighbours."""
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


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
    if options.memory_megabytes:
        limit_memory(options.memory_megabytes)
    os.execvp(line[0], line)  # the kernel keeps both over the exec


if __name__ == "__main__":
    main()
