import pytest

from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.protocol import GATEWAY_FIELDS, parse_chat

USER = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "expected a JSON object"),
        ({}, "messages"),
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\].role: received 'tool'"),
        ({"messages": [{"role": "user", "content": 3}]}, "expected text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the user's"),
        ({"messages": USER, "temperature": 3}, "from 0 to 2"),
        ({"messages": USER, "temperature": True}, "temperature"),
        ({"messages": USER, "top_p": 0}, "top_p"),
        ({"messages": USER, "max_tokens": 0}, "max_tokens"),
        ({"messages": USER, "max_token": 5}, "did you mean 'max_tokens'"),
        ({"messages": USER, "tools": []}, "unsupported field 'tools'"),
        ({"messages": USER, "n": 2}, "unsupported field 'n'"),
        ({"messages": USER, "stop": [""]}, "stop"),
        ({"messages": USER, "stream": "yes"}, "true or false"),
        ({"messages": USER, "logprobs": True, "temperature": 1}, "greedy"),
        ({"messages": USER, "retrieval": True}, "unsupported field 'retrieval'"),
    ],
)
def test_what_is_not_honoured_is_refused(body: object, words: str) -> None:
    with pytest.raises(HttpError, match=words) as caught:
        parse_chat(body)
    assert caught.value.status == 400
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


def test_defaults_and_text_parts() -> None:
    request = parse_chat(
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "stop": "x"}
    )
    assert request.messages == [{"role": "user", "content": "ab"}]
    assert (request.temperature, request.top_p, request.stop, request.retrieval) == (0.0, 1.0, ("x",), None)


def test_what_only_some_engines_honour_passes_the_gateway_checked() -> None:
    tool = {"type": "function", "function": {"name": "rate", "parameters": {"type": "object"}}}
    called = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "rate", "arguments": "{}"}}]}
    messages = [{"role": "developer", "content": "short"}, *USER, called, {"role": "tool", "tool_call_id": "1", "content": "3%"}]
    body = {
        "messages": messages,
        "tools": [tool],
        "tool_choice": "auto",
        "n": 3,
        "seed": 7,
        "logprobs": True,
        "temperature": 1,
        "user": None,
    }
    request = parse_chat({**body, "response_format": {"type": "json_object"}, "metadata": {"task": "rates"}}, GATEWAY_FIELDS)
    assert [m["role"] for m in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[2] == {"role": "assistant", "content": "", "tool_calls": called["tool_calls"]}
    assert (request.tools, request.n, request.seed, request.retrieval) == ((tool,), 3, 7, None)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tools", [], "1 to 128"),
        ("tools", [{"type": "function"}], r"tools\[0\]"),
        ("tool_choice", "auto", "needs tools"),
        ("n", 0, "from 1 to"),
        ("n", True, "from 1 to"),
        ("seed", 1.5, "an integer"),
        ("top_logprobs", 2, "needs logprobs"),
        ("presence_penalty", 3, "from -2 to 2"),
        ("response_format", {"type": "xml"}, "json_schema"),
        ("response_format", {"type": "json_schema"}, "an object with a schema"),
        ("metadata", {"task": 1}, "at most 16 texts"),
        ("model", 5, "expected a string"),
        ("user", "\ud800", "surrogate"),
    ],
)
def test_what_only_some_engines_honour_must_be_well_formed(field: str, value: object, words: str) -> None:
    with pytest.raises(HttpError, match=words):
        parse_chat({"messages": USER, field: value}, GATEWAY_FIELDS)
