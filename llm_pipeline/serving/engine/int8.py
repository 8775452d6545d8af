"""Weights of linear layers in 8 bits, each output channel with a scale of its own; activations are quantised as they come (CPU)."""

from __future__ import annotations

import warnings

import torch
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic


def quantize_weights(model: torch.nn.Module) -> None:
    """In place. Answers change a little, forward passes cost a third to a half."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to move this to a package of its own, torchao
        quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig}, inplace=True)  # type: ignore[no-untyped-call]
