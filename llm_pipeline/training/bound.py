"""Runs a launcher module as `__main__`, its life bound to that of the process that started it.

`python -m llm_pipeline.training.bound torch.distributed.run ...`: the parent then needs no code between fork and exec,
which libraries with threads forbid.
"""

from __future__ import annotations

import runpy
import sys

from llm_pipeline.training.interrupt import signal_on_parent_death

if __name__ == "__main__":
    signal_on_parent_death()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
