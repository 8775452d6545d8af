"""A checkpoint of N processes made loadable by M: DeepSpeed's universal format, one file per parameter and optimiser state."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from llm_pipeline.store import write_atomically

POINTER = "latest_universal"
"""The file by which DeepSpeed finds the universal form."""


def make_universal(checkpoint: Path) -> None:
    """Write the universal form beside the sharded one (Lian et al. 2024, arXiv:2406.18820), unless it stands there already."""
    from deepspeed.checkpoint import ds_to_universal

    if (checkpoint / POINTER).exists():
        return
    source = checkpoint / (checkpoint / "latest").read_text("utf-8").strip()
    target = source.with_name(f"{source.name}_universal")
    shutil.rmtree(target, ignore_errors=True)
    ds_to_universal.main(
        argparse.Namespace(
            input_folder=str(source),
            output_folder=str(target),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=False,
            inject_missing_state=True,
        )
    )
    write_atomically(checkpoint / POINTER, target.name)


def load_universal(trainer: Any) -> None:
    """Tell DeepSpeed, before its engine is built, to read the universal form."""
    trainer.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
