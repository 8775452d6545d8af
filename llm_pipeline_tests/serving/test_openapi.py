"""Both OpenAPI documents describe what their servers do: schemathesis, with all its checks, finds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from llm_pipeline.serving.admin.app import build_app
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.openapi import chat_body, completion_body, document, embedding_body, feedback_body
from llm_pipeline.serving.gateway.protocol import GATEWAY_FIELDS, parse_chat
from llm_pipeline.serving.gateway.protocol_more import COMPLETION_FIELDS, EMBEDDING_FIELDS
from llm_pipeline.serving.observability.feedback import FIELDS
from llm_pipeline.serving.traffic.state import State
from llm_pipeline_tests.serving.gateways import FakeEngine, gateway, served


def findings(url: str, key: str, folder: Path) -> str:
    """What schemathesis reports, or nothing."""
    command = [Path(sys.executable).parent / "schemathesis", "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {key}"]
    options = ["--seed", "1", "--max-examples", "3", "--no-color", "--continue-on-failure", "--warnings", "off"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout[-6000:]


@pytest.mark.slow
def test_the_admin_api_is_as_its_document_says(tmp_path: Path) -> None:
    state = State(tmp_path / "endpoint")
    for name in range(40):  # so that no example happens to revoke the key that is used
        state.keys.add(f"key-{name}", ["chat"])
    key = state.keys.add("ops", ["admin"])
    app = build_app(tmp_path / "endpoint")
    with served(app) as url:
        assert findings(url, key, tmp_path) == ""
    for opened in (state, app.state.admin.state):
        opened.close()
    app.state.admin.database.dispose()


@pytest.mark.slow
def test_the_gateway_is_as_its_document_says(tmp_path: Path) -> None:
    with served(FakeEngine(["Three", " euros"])) as url, gateway(tmp_path / "gateway", {"upstreams": {"a": {"url": url}}}) as place:
        assert findings(place.url, place.key, tmp_path) == ""
        assert {row["answer"] for row in place.logged()} >= {"Three euros"}


def test_the_document_has_every_field_that_a_parser_knows() -> None:
    assert set(chat_body(["default"], 100)["properties"]) == set(GATEWAY_FIELDS)
    assert set(completion_body(["default"], 100)["properties"]) == set(COMPLETION_FIELDS)
    assert set(embedding_body()["properties"]) == set(EMBEDDING_FIELDS)
    assert set(feedback_body()["properties"]) == set(FIELDS)


def test_the_document_shows_what_is_served_and_how_to_authenticate() -> None:
    shown = document(["POST /v1/chat/completions", "GET /healthz", "GET /unknown"], ["small", "large"], 77)
    assert set(shown["paths"]) == {"/v1/chat/completions", "/healthz"}
    chat = shown["paths"]["/v1/chat/completions"]["post"]
    fields = chat["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert fields["model"]["enum"] == ["small", "large", None]
    assert fields["max_tokens"]["anyOf"][0]["maximum"] == 77
    assert chat["security"] == [{"key": []}]
    assert "security" not in shown["paths"]["/healthz"]["get"]


USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"messages": [USER]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "n": 2, "stop": ["a"], "stream": None}, True),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, USER]},
            True,
        ),
        ({"messages": []}, False),
        ({"messages": [{"role": "assistant", "content": None}, USER]}, False),
        ({"messages": [USER], "colour": 1}, False),
        ({"messages": [USER], "top_logprobs": 3}, False),
        ({"messages": [USER], "top_logprobs": 3, "logprobs": True}, True),
        ({"messages": [USER], "tool_choice": "auto"}, False),
        ({"messages": [USER], "temperature": 3}, False),
    ],
)
def test_bodies(body: dict[str, object], good: bool) -> None:
    assert Draft202012Validator(chat_body(["default"], 100)).is_valid(body) is good


def test_an_integer_may_be_written_with_a_point() -> None:
    request = parse_chat({"messages": [USER], "n": 2.0, "max_tokens": 5}, GATEWAY_FIELDS)
    assert (request.n, type(request.n)) == (2, int)
    with pytest.raises(HttpError, match=r"n: received 2.5"):
        parse_chat({"messages": [USER], "n": 2.5}, GATEWAY_FIELDS)
