"""The clients that people use with OpenAI, unchanged, against the gateway."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import openai
import pytest

from llm_pipeline_tests.serving.gateways import FakeEngine, Place, chunk, gateway, served

CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "rate", "arguments": '{"of": "card"}'}}
VECTORS = {
    "object": "list",
    "model": "e",
    "data": [{"object": "embedding", "index": i, "embedding": [float(i), 1.0]} for i in range(2)],
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}


def script(body: dict[str, object]) -> list[object]:
    if "input" in body:
        return [VECTORS]
    if body.get("tools"):
        return [{"choices": [{"index": 0, "delta": {"tool_calls": [CALL]}, "finish_reason": "tool_calls"}]}]
    return [chunk("The fee", logprob=-0.1), chunk(" is 3 euros.", logprob=-0.2)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with served(FakeEngine(script)) as url:
        raw = {"upstreams": {"a": {"url": f"{url}/v1", "model": "m"}}, "embeddings": "a"}
        with gateway(tmp_path_factory.mktemp("gateway"), raw) as found:
            yield found


ANSWER = "The fee is 3 euros."


def test_openai(place: Place) -> None:
    ask = [{"role": "user", "content": "What is the fee?"}]
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key=place.key, max_retries=0) as api:
        plain = api.chat.completions.create(model="default", messages=ask, logprobs=True, seed=1)  # type: ignore[arg-type]
        assert plain.choices[0].message.content == ANSWER
        assert [entry.logprob for entry in plain.choices[0].logprobs.content] == [-0.1, -0.2]  # type: ignore[union-attr]
        chunks = list(api.chat.completions.create(model="default", messages=ask, stream=True))  # type: ignore[arg-type]
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == ANSWER
        old = api.completions.create(model="default", prompt="What is the fee?")
        assert (old.choices[0].text, old.object) == (ANSWER, "text_completion")
        assert "".join(c.choices[0].text for c in api.completions.create(model="default", prompt="Fee?", stream=True)) == ANSWER
        vectors = api.embeddings.create(model="default", input=["a", "b"], encoding_format="float")
        assert [item.embedding for item in vectors.data] == [[0.0, 1.0], [1.0, 1.0]]
        assert [model.id for model in api.models.list()] == ["default"]
        with pytest.raises(openai.AuthenticationError):
            api.with_options(api_key="lp-wrong").models.list()
        with pytest.raises(openai.BadRequestError, match="echo"):
            api.completions.create(model="default", prompt="x", echo=True)


def test_langchain(place: Place) -> None:
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    @tool
    def rate(of: str) -> str:
        """The rate of a product."""
        return of

    model = ChatOpenAI(base_url=f"{place.url}/v1", api_key=SecretStr(place.key), model="default", temperature=0, max_retries=0)
    assert model.invoke("What is the fee?").content == ANSWER
    assert "".join(str(piece.content) for piece in model.stream("What is the fee?")) == ANSWER
    calls = model.bind_tools([rate]).invoke("What is the rate of a card?").tool_calls
    assert [(call["name"], call["args"]) for call in calls] == [("rate", {"of": "card"})]


def test_llama_index(place: Place) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library warns of itself
        from llama_index.core.llms import ChatMessage
        from llama_index.llms.openai_like import OpenAILike

        model = OpenAILike(model="default", api_base=f"{place.url}/v1", api_key=place.key, is_chat_model=True, max_retries=0)
        assert model.chat([ChatMessage(role="user", content="What is the fee?")]).message.content == ANSWER
        assert list(model.stream_chat([ChatMessage(role="user", content="What is the fee?")]))[-1].message.content == ANSWER
        older = OpenAILike(model="default", api_base=f"{place.url}/v1", api_key=place.key, is_chat_model=False, max_retries=0)
        assert older.complete("What is the fee?").text == ANSWER
