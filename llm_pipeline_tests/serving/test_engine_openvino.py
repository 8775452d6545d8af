"""Our worker over OpenVINO GenAI holds the contract, refusing what it cannot do, and agrees with the model as it was trained.

It needs an environment of its own; OPENVINO_PYTHON=DIR/bin/python then runs these tests:

    python -m venv DIR && DIR/bin/pip install openvino-genai openvino-tokenizers "optimum-intel[openvino]" \\
        xgrammar uvicorn httptools uvloop orjson prometheus-client pydantic pyyaml psutil sqlalchemy
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import jsonschema
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
    assert refused == {"log_probabilities"}
    assert {verdict.status for verdict in verdicts if verdict.case not in refused} == {"passed"}, table(verdicts)


def test_it_serves_the_trained_model(openvino: Supervised) -> None:
    found = compare(MODEL, openvino.url, QUESTIONS)
    assert found.holds(0.001), found


SCHEMAS: tuple[dict[str, Any], ...] = (
    {"enum": ["low", "medium", {"level": 3}, None]},
    {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ['a"b(c', "{0, -1}"]}], "minItems": 2, "maxItems": 2},
    {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"], "additionalProperties": False,
     "$defs": {"n": {"anyOf": [{"type": "integer", "minimum": -120, "maximum": 3000}, {"const": "é"}]}}},
)  # fmt: skip


def complete(engine: Supervised, schema: dict[str, Any], temperature: float = 0) -> tuple[int, dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 80, "temperature": temperature}
    body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    request = urllib.request.Request(f"{engine.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_answer_of_a_schema_always_validates(openvino: Supervised, schema: dict[str, Any]) -> None:
    for temperature in (0, 1.0, 1.8):
        status, reply = complete(openvino, schema, temperature)
        assert status == 200, reply
        jsonschema.validate(json.loads(reply["choices"][0]["message"]["content"]), schema)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "^a+$"}, "pattern"),
        ({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}, "not"),
        ({"type": "obj"}, "obj"),
        ({"$ref": "#/$defs/none"}, "none"),
    ],
)
def test_a_schema_that_it_would_not_hold_is_refused(openvino: Supervised, schema: dict[str, Any], reason: str) -> None:
    status, reply = complete(openvino, schema)
    assert (status, reply["error"]["code"]) == (400, "unsupported_schema")
    assert reason in reply["error"]["message"].removeprefix("response_format.json_schema.schema")


def test_it_says_when_it_is_idle_and_ends_when_it_is_asked_to(openvino: Supervised) -> None:
    assert under_way(openvino.url) == 0
    assert openvino.ends()
