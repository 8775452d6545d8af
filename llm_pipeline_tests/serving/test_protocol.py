import pytest

from llm_pipeline.serving.asgi import HttpError
from llm_pipeline.serving.protocol import GATEWAY_FIELDS, parse_chat

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
        ({"messages": USER, "n": 2}, "only 1"),
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


def test_the_gateway_knows_retrieval_and_not_logprobs() -> None:
    assert parse_chat({"messages": USER, "retrieval": False}, GATEWAY_FIELDS).retrieval is False
    with pytest.raises(HttpError, match="logprobs"):
        parse_chat({"messages": USER, "logprobs": True}, GATEWAY_FIELDS)
