"""What a release's `engine` settings mean: the command that runs the engine on a port, and how to tell that it answers.

engine: {name: transformers | vllm | openvino | openai, ...}; the keys of each are the fields of its class below.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_pipeline.config import build
from llm_pipeline.errors import ConfigError, near
from llm_pipeline.paths import PROJECT
from llm_pipeline.serving.traffic.state import Spec

RELEASE_KEYS = frozenset({"name", "retrieval", "passages", "replicas", "routing", "cache"})
"""Keys of a release's settings that are not the engine's own."""


@dataclass(frozen=True)
class Transformers:
    """Our worker on the CPU (`llm_pipeline.serving.engine.worker`)."""

    threads: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: Literal["none", "int8"] = "none"
    """Of the weights, as they are loaded: two to three times as fast on one core; answers are no longer exactly the model's."""
    kv_megabytes: int = 256
    in_flight: int = 64
    queue: int = 256
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Name in requests -> folder of a LoRA adapter; all are served on one base."""
    memory_megabytes: int | None = None
    start_seconds: float = 180.0
    """An engine that answers nothing for so long after its start is started again."""

    def __post_init__(self) -> None:
        if self.quantization == "int8" and self.dtype != "float32":
            raise ConfigError(f"engine transformers: quantization int8 needs dtype float32, received {self.dtype}")

    def command(self, model: str, name: str, port: int) -> list[str]:
        options = [
            f"--{key.replace('_', '-')}={getattr(self, key)}"
            for key in ("threads", "dtype", "quantization", "kv_megabytes", "in_flight", "queue")
        ]
        options += [f"--adapter={key}={path}" for key, path in self.adapters.items()]
        return [
            sys.executable,
            "-m",
            "llm_pipeline.serving.engine.worker",
            f"--model={model}",
            f"--name={name}",
            f"--port={port}",
            *options,
        ]


_COMPACT = {"backend": "guidance", "disable_any_whitespace": True}
"""White space that is free in JSON would let a weak model write it for ever."""


@dataclass(frozen=True)
class Vllm:
    """vLLM on GPUs, from an environment of its own: `executable` is its `vllm`. Flags as `vllm serve --help` documents them."""

    executable: str = "vllm"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    quantization: str | None = None
    gpus: int = 1
    gpu_memory: float = 0.9
    """Share of the device's memory; of vLLM's CPU build: of the machine's."""
    context: int | None = None
    in_flight: int = 256
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapter_rank: int = 64
    """Largest rank of an adapter that it makes room for."""
    speculative: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's own record, such as {method: ngram, num_speculative_tokens: 4, prompt_lookup_max: 4}."""
    memory_megabytes: int | None = None
    start_seconds: float = 1200.0
    """It reads large weights and compiles before it answers."""

    def command(self, model: str, name: str, port: int) -> list[str]:
        options = [
            "--host=127.0.0.1", f"--port={port}", f"--served-model-name={name}", f"--dtype={self.dtype}",
            f"--tensor-parallel-size={self.gpus}", f"--gpu-memory-utilization={self.gpu_memory}", f"--max-num-seqs={self.in_flight}",
            "--generation-config=vllm", "--disable-uvicorn-access-log", f"--structured-outputs-config={json.dumps(_COMPACT)}",
        ]  # fmt: skip
        options += [f"--quantization={self.quantization}"] if self.quantization else []
        options += [f"--max-model-len={self.context}"] if self.context else []
        options += [f"--speculative-config={json.dumps(self.speculative, sort_keys=True)}"] if self.speculative else []
        if self.adapters:
            options += ["--enable-lora", f"--max-loras={len(self.adapters)}", f"--max-lora-rank={self.adapter_rank}", "--lora-modules"]
            options += [f"{key}={path}" for key, path in self.adapters.items()]
        return [self.executable, "serve", model, *options]


@dataclass(frozen=True)
class OpenVino:
    """Our worker over OpenVINO GenAI (`llm_pipeline.serving.engine.openvino`) on the CPU: `executable` is the Python of its environment."""

    executable: str = ""
    exports: str = str(Path("~/.cache/llm_pipeline/openvino").expanduser())
    """Folder of models in OpenVINO's format; a model is exported there when it is first served."""
    threads: int = 1
    kv_megabytes: int = 256
    in_flight: int = 64
    queue: int = 256
    memory_megabytes: int | None = None
    start_seconds: float = 1200.0
    """With the export of the model."""

    def __post_init__(self) -> None:
        if not self.executable:
            raise ConfigError("engine openvino: executable: expected the python of an environment with openvino-genai")

    def command(self, model: str, name: str, port: int) -> list[str]:
        options = [
            f"--{key.replace('_', '-')}={getattr(self, key)}" for key in ("exports", "threads", "kv_megabytes", "in_flight", "queue")
        ]
        module = ["-m", "llm_pipeline.serving.engine.openvino", f"--model={model}", f"--name={name}", f"--port={port}"]
        return ["env", f"PYTHONPATH={PROJECT}", self.executable, *module, *options]


@dataclass(frozen=True)
class External:
    """Any OpenAI-compatible address; nothing is started. The key stays in the environment: only its variable is named here."""

    url: str = ""
    model: str | None = None
    key_variable: str | None = None
    memory_megabytes: None = None
    start_seconds: float = 180.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"engine openai: url: received {self.url!r}, expected http(s)://host[:port]")

    def command(self, model: str, name: str, port: int) -> list[str]:
        return []


Settings = Transformers | Vllm | OpenVino | External
ENGINES: dict[str, type[Settings]] = {"transformers": Transformers, "vllm": Vllm, "openvino": OpenVino, "openai": External}


def parse_settings(settings: Mapping[str, Any]) -> Settings:
    """The typed settings; an unknown engine or key is a `ConfigError` that names the near one."""
    name = settings.get("name", "transformers")
    if name not in ENGINES:
        raise ConfigError(f"engine: unknown name {name!r}{near(str(name), ENGINES)}")
    if name == "transformers" and "speculative" in settings:
        raise ConfigError(
            "engine transformers: speculative decoding is left out, since drafts made answers slower on a CPU; engine vllm takes it"
        )
    return build(ENGINES[name], {key: value for key, value in settings.items() if key not in RELEASE_KEYS}, f"engine {name}")


def command(settings: Mapping[str, Any], spec: Spec, port: int, name: str = "default") -> list[str]:
    """The command line of the engine of a release, as a child of this process that dies with it; empty when nothing is to be started."""
    engine = parse_settings(settings)
    line = engine.command(spec.model_path, name, port)
    if not line:
        return []
    memory = [f"--memory-megabytes={engine.memory_megabytes}"] if engine.memory_megabytes else []
    return [sys.executable, "-m", "llm_pipeline.serving.engine.launch", f"--parent={os.getpid()}", *memory, "--", *line]


def address(settings: Mapping[str, Any], port: int) -> str:
    engine = parse_settings(settings)
    return engine.url.rstrip("/").removesuffix("/v1") if isinstance(engine, External) else f"http://127.0.0.1:{port}"


def answers(settings: Mapping[str, Any], port: int, timeout: float = 15.0) -> bool:
    """Whether the engine makes one token in time: alive is what answers, not what says that it is well."""
    engine, url = parse_settings(settings), address(settings, port)
    if isinstance(engine, Transformers | OpenVino):
        return _ok(urllib.request.Request(f"{url}/health"), timeout)  # makes a token, past the queue
    headers = {"content-type": "application/json"}
    if isinstance(engine, External) and engine.key_variable:
        headers["authorization"] = f"Bearer {os.environ.get(engine.key_variable, '')}"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "."}], "max_tokens": 1}
    body |= {"model": engine.model} if isinstance(engine, External) and engine.model else {}
    return _ok(urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers), timeout)


def _ok(request: urllib.request.Request, timeout: float) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def described(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with every default filled in, for a release's record."""
    return {"name": settings.get("name", "transformers"), **asdict(parse_settings(settings))}
