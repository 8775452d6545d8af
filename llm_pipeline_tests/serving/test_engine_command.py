"""Engine settings become command lines whose programs take them; a wrong setting is refused by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import PROJECT
from llm_pipeline.serving.engine.command import address, answers, command, described
from llm_pipeline.serving.engine.worker import parser
from llm_pipeline.serving.traffic.state import Spec

SPEC = Spec("/models/m", {}, {})
LAUNCH = [sys.executable, "-m", "llm_pipeline.serving.engine.launch", f"--parent={os.getpid()}"]
VLLM_FLAGS = {
    "--host", "--port", "--served-model-name", "--dtype", "--tensor-parallel-size", "--gpu-memory-utilization", "--max-num-seqs",
    "--generation-config", "--disable-uvicorn-access-log", "--quantization", "--max-model-len", "--speculative-config", "--enable-lora",
    "--max-loras", "--max-lora-rank", "--lora-modules", "--structured-outputs-config",
}  # fmt: skip
"""As in the command line reference of vLLM (docs.vllm.ai, `vllm serve`)."""


def test_the_worker_understands_every_setting_of_its_own() -> None:
    settings = {"threads": 2, "dtype": "bfloat16", "kv_megabytes": 64, "in_flight": 8, "queue": 3, "adapters": {"bank": "/a=b"}}
    line = command({"name": "transformers", "retrieval": True, "passages": 2, **settings}, SPEC, 9001, "r1")
    assert line[: len(LAUNCH) + 1] == [*LAUNCH, "--"]
    assert line[len(LAUNCH) + 1 :][:3] == [sys.executable, "-m", "llm_pipeline.serving.engine.worker"]
    found = parser().parse_args(line[len(LAUNCH) + 4 :])
    assert {name: getattr(found, name) for name in settings if name != "adapters"} == {k: v for k, v in settings.items() if k != "adapters"}
    assert dict(found.adapter) == {"bank": "/a=b"}
    assert (str(found.model), found.name, found.port) == ("/models/m", "r1", 9001)


def test_vllm_is_given_documented_flags_only() -> None:
    settings = {"name": "vllm", "executable": "/env/bin/vllm", "gpus": 2, "quantization": "fp8", "context": 4096, "memory_megabytes": 9000,
                "adapters": {"bank": "/a"}, "speculative": {"method": "ngram", "num_speculative_tokens": 4}}  # fmt: skip
    line = command(settings, SPEC, 9001, "r1")
    assert line[: len(LAUNCH) + 5] == [*LAUNCH, "--memory-megabytes=9000", "--", "/env/bin/vllm", "serve", "/models/m"]
    flags = [part for part in line[len(LAUNCH) + 5 :] if part.startswith("--")]
    assert {flag.partition("=")[0] for flag in flags} == VLLM_FLAGS
    assert line[-2:] == ["--lora-modules", "bank=/a"]
    assert '--speculative-config={"method": "ngram", "num_speculative_tokens": 4}' in line


def test_openvino_is_our_worker_under_another_python() -> None:
    line = command({"name": "openvino", "executable": "/env/bin/python", "exports": "/exports", "threads": 2}, SPEC, 9001, "r1")
    assert line[: len(LAUNCH) + 4] == [*LAUNCH, "--", "env", f"PYTHONPATH={PROJECT}", "/env/bin/python"]
    module, *options = line[len(LAUNCH) + 5 :]
    assert module == "llm_pipeline.serving.engine.openvino"
    limits = {"--exports=/exports", "--threads=2", "--kv-megabytes=256", "--in-flight=64", "--queue=256"}
    assert set(options) == {"--model=/models/m", "--name=r1", "--port=9001"} | limits


def test_an_external_engine_is_an_address_without_a_process() -> None:
    settings = {"name": "openai", "url": "https://models.example/v1", "key_variable": "MODEL_KEY"}
    assert command(settings, SPEC, 9001) == []
    assert address(settings, 9001) == "https://models.example"
    assert address({}, 9001) == "http://127.0.0.1:9001"
    assert not answers({"name": "openai", "url": "http://127.0.0.1:9"}, 0, timeout=1)
    assert described({})["kv_megabytes"] == 256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vlm"}, "did you mean 'vllm'"),
        ({"name": "transformers", "kv_megabyte": 3}, "did you mean 'kv_megabytes'"),
        ({"dtype": "float8"}, "dtype: received 'float8'"),
        ({"quantization": "int8", "dtype": "bfloat16"}, "needs dtype float32"),
        ({"name": "openai", "url": "models.example"}, "expected http"),
        ({"name": "openvino"}, "executable: expected the python"),
        ({"name": "transformers", "speculative": {"method": "ngram"}}, "speculative decoding is left out"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command(settings, SPEC, 9001)


def test_a_launched_program_cannot_take_more_memory_than_its_limit() -> None:
    line = [sys.executable, "-m", "llm_pipeline.serving.engine.launch", "--memory-megabytes=200", "--", sys.executable, "-c"]
    assert subprocess.run([*line, "bytearray(50 << 20)"], check=False).returncode == 0
    refused = subprocess.run([*line, "bytearray(500 << 20)"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "MemoryError" in refused.stderr


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_launched_program_started_ends_with_it(end: signal.Signals) -> None:
    line = [*LAUNCH, "--", "sh", "-c", "sleep 300 & echo $!; wait"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        worker = psutil.Process(int(program.stdout.readline()))
        family = [worker, *psutil.Process(program.pid).children(recursive=True)]
        program.send_signal(end)
        program.wait(20)
        _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_a_launched_program_hears_signals_that_its_parent_does_not() -> None:
    deaf = (
        "import os, signal, sys\nsignal.signal(15, signal.SIG_IGN)\nsignal.pthread_sigmask(signal.SIG_BLOCK, {15})\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    line = [sys.executable, "-c", deaf, *LAUNCH, "--", "sh", "-c", "echo here; sleep 300"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "here\n"
        program.terminate()
        assert program.wait(20) == -signal.SIGTERM


def test_a_launched_program_dies_with_its_parent() -> None:
    launch = "[sys.executable, '-m', 'llm_pipeline.serving.engine.launch', f'--parent={os.getpid()}', '--', 'sleep', '60']"
    code = f"import os, subprocess, sys\nchild = subprocess.Popen({launch}, stdout=subprocess.DEVNULL)\nprint(child.pid, flush=True)\n" \
           "while open(f'/proc/{child.pid}/comm').read().strip() != 'sleep': pass\n"  # fmt: skip
    parent = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    child = int(parent.stdout)
    _, alive = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
