"""Our worker over OpenVINO GenAI holds the contract, refusing what it cannot do, and agrees with the model as it was trained.

It needs an environment of its own; OPENVINO_PYTHON=DIR/bin/python then runs these tests:

    python -m venv DIR && DIR/bin/pip install openvino-genai openvino-tokenizers "optimum-intel[openvino]" \\
        uvicorn httptools uvloop orjson prometheus-client pydantic pyyaml psutil sqlalchemy
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
from llm_pipeline_tests.serving.engines import Supervised, supervised_engine

EXECUTABLE = os.environ.get("OPENVINO_PYTHON", "")
MODEL = DATA / "models" / "tiny_base"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXECUTABLE, reason="OPENVINO_PYTHON names no python of an environment with openvino-genai"),
]


@pytest.fixture(scope="module")
def openvino(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("openvino")
    settings = {"name": "openvino", "executable": EXECUTABLE, "exports": str(folder / "exports"), "in_flight": 16}
    with supervised_engine(MODEL, settings, folder / "openvino.log") as found:
        yield found


def test_it_holds_the_contract(openvino: Supervised) -> None:
    verdicts = asyncio.run(check(openvino.url))
    refused = {verdict.case for verdict in verdicts if verdict.status == "refused"}
    assert refused == {"log_probabilities", "json_is_as_asked"}
    assert {verdict.status for verdict in verdicts if verdict.case not in refused} == {"passed"}, table(verdicts)


def test_it_serves_the_trained_model(openvino: Supervised) -> None:
    found = compare(MODEL, openvino.url, QUESTIONS)
    assert found.holds(0.001), found


def test_it_says_when_it_is_idle_and_ends_when_it_is_asked_to(openvino: Supervised) -> None:
    assert under_way(openvino.url) == 0
    assert openvino.ends()
