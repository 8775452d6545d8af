"""LoRA adapters (Hu et al. 2021) on one base: requests of several adapters, and of none, share each forward pass.

The batch is one packed row of tokens; each adapted layer adds its low-rank term to the tokens of the requests that asked for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.ao.nn.quantized.dynamic import Linear as QuantizedLinear

from llm_pipeline.errors import InputError

_PREFIX = "base_model.model."
_REFUSED = ("use_dora", "modules_to_save", "trainable_token_indices", "alora_invocation_tokens", "fan_in_fan_out", "alpha_pattern")


@dataclass(frozen=True)
class _Pair:
    down: torch.Tensor
    """[rank, in], as `up` [out, rank] already times the adapter's scale."""
    up: torch.Tensor


class Adapters:
    """Hooks on the adapted layers of a model; `batch` says before each forward pass whose tokens are where."""

    def __init__(self, model: torch.nn.Module, folders: Mapping[str, Path]) -> None:
        self.names = frozenset(folders)
        self._pairs: dict[str, dict[str, _Pair]] = {}
        for name, folder in folders.items():
            for module, pair in _load(folder, next(model.parameters()).dtype).items():
                self._pairs.setdefault(module, {})[name] = pair
        self._tokens: dict[str, torch.Tensor] = {}
        modules = dict(model.named_modules())
        for path, pairs in self._pairs.items():
            layer = modules.get(path)
            if not isinstance(layer, torch.nn.Linear | QuantizedLinear):
                raise InputError(f"adapter {next(iter(pairs))!r} adapts {path}, which is no linear layer of this base")
            for name, pair in pairs.items():
                if (pair.down.shape[1], pair.up.shape[0]) != (layer.in_features, layer.out_features):
                    raise InputError(f"adapter {name!r} was trained on another base: {path} has other sizes here")
            layer.register_forward_hook(self._hook(pairs))

    def batch(self, parts: Sequence[tuple[str | None, int]]) -> None:
        """The adapter and the number of tokens of each request, in the order of the packed batch."""
        found: dict[str, list[torch.Tensor]] = {}
        start = 0
        for name, length in parts:
            if name is not None:
                found.setdefault(name, []).append(torch.arange(start, start + length))
            start += length
        self._tokens = {name: torch.cat(places) for name, places in found.items()}

    def _hook(self, pairs: Mapping[str, _Pair]) -> Callable[..., None]:
        def add(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            for name, tokens in self._tokens.items():
                if pair := pairs.get(name):
                    output[0].index_add_(0, tokens, inputs[0][0, tokens] @ pair.down.T @ pair.up.T)

        return add


def _load(folder: Path, dtype: torch.dtype) -> dict[str, _Pair]:
    """The adapter's matrices by the name of the layer that they adapt; what is not plain LoRA is refused."""
    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
        weights = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError as error:
        raise InputError(f"{folder}: expected adapter_config.json and adapter_model.safetensors: {error}") from None
    unsupported = [key for key in _REFUSED if config.get(key)] + (["bias"] if config.get("bias", "none") != "none" else [])
    if config.get("peft_type") != "LORA" or unsupported:
        raise InputError(
            f"{folder}: expected plain LoRA, received {config.get('peft_type')} with {', '.join(unsupported) or 'nothing else'}"
        )
    pairs = {}
    for key in [key for key in weights if key.endswith(".lora_A.weight")]:
        path = key.removesuffix(".lora_A.weight").removeprefix(_PREFIX)
        down, up = weights.pop(key), weights.pop(key.replace(".lora_A.", ".lora_B."))
        scale = config["lora_alpha"] / (math.sqrt(down.shape[0]) if config.get("use_rslora") else down.shape[0])
        pairs[path] = _Pair(down.to(dtype), (up * scale).to(dtype))
    if weights:
        raise InputError(f"{folder}: unexpected weights {', '.join(sorted(weights)[:3])}")
    return pairs
