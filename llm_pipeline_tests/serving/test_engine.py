"""The contract of an engine behind the gateway, on the real worker process. Each row is a way in which some engine has failed."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llm_pipeline.serving.engine.parity import QUESTIONS, compare
from llm_pipeline_tests.serving.engines import running_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_engine(model, tmp_path_factory.mktemp("logs") / "engine.log", "--in-flight", "4", "--queue", "2") as address:
        yield address


def ask(url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    return post(f"{url}/v1/chat/completions", {"messages": [{"role": "user", "content": "What is the fee?"}], "max_tokens": 6} | body)


def post(url: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(content).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def text(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def test_batched_greedy_answers_equal_generate(url: str, model: Path) -> None:
    found = compare(model, url, QUESTIONS, max_tokens=12)
    assert found.equal == len(QUESTIONS)
    assert found.largest_difference < 1e-3


def test_greedy_is_undisturbed_by_sampled_neighbours(url: str) -> None:
    alone = text(ask(url)[1])

    async def together() -> list[str]:
        async def one(temperature: float) -> str:
            return text((await asyncio.to_thread(ask, url, temperature=temperature))[1])

        return await asyncio.gather(*(one(t) for t in (0.0, 1.5, 0.0, 1.5)))

    answers = asyncio.run(together())
    assert answers[0] == answers[2] == alone
    assert len({text(ask(url, temperature=1.5)[1]) for _ in range(6)}) > 1


def test_sampling_is_per_request_and_top_p_narrows_it(url: str) -> None:
    assert {text(ask(url, temperature=1.0, top_p=1e-6)[1]) for _ in range(4)} == {text(ask(url)[1])}


def test_stop_ends_the_answer_before_the_stop_string(url: str) -> None:
    messages, whole = next(
        (messages, answer)
        for question in QUESTIONS
        if len(answer := text(ask(url, messages=(messages := [{"role": "user", "content": question}]), max_tokens=12)[1])) >= 4
    )
    stop = whole[2:4]
    status, reply = ask(url, messages=messages, max_tokens=12, stop=[stop])
    assert status == 200
    assert text(reply) == whole[: whole.index(stop)]
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_text_completions_answer_every_prompt_in_each_of_openais_forms(url: str) -> None:
    status, reply = post(f"{url}/v1/completions", {"prompt": ["The fee is", "Cards"], "n": 2, "max_tokens": 4, "logprobs": 1})
    assert status == 200
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    first, second, third, _ = reply["choices"]
    assert first["text"] == second["text"] != third["text"]
    detail = first["logprobs"]
    assert len(detail["tokens"]) == len(detail["token_logprobs"]) == len(detail["top_logprobs"]) == len(detail["text_offset"])
    assert all(
        value == pytest.approx(max(top.values())) for value, top in zip(detail["token_logprobs"], detail["top_logprobs"], strict=True)
    )
    ids = post(f"{url}/v1/completions", {"prompt": [7, 8, 9], "max_tokens": 2})
    assert (ids[0], ids[1]["usage"]["prompt_tokens"]) == (200, 3)
    assert post(f"{url}/v1/completions", {"prompt": [7, 10**6], "max_tokens": 2})[0] == 400


def test_a_stream_carries_the_log_probabilities_of_the_text_it_shows(url: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 10,
        "logprobs": True,
        "top_logprobs": 1,
        "seed": 3,
        "temperature": 1,
    }
    whole = ask(url, **body)[1]["choices"][0]
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body | {"stream": True}).encode())
    with urllib.request.urlopen(request, timeout=60) as reply:
        events = [json.loads(line[6:])["choices"][0] for line in reply.read().splitlines() if line.startswith(b"data: {")]
    assert "".join(event["delta"].get("content", "") for event in events) == whole["message"]["content"]
    assert [entry for event in events for entry in event["logprobs"]["content"]] == whole["logprobs"]["content"]
    assert all(event["logprobs"]["content"] for event in events if event["delta"].get("content"))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"adapter": "bank"}, 404, "no model or adapter 'bank'; known: default"),
        ({"model": "other"}, 404, "no model or adapter 'other'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "unsupported field 'tools'"),
        ({"top_k": 1.5}, 400, "top_k: received 1.5, expected an integer"),
        ({"min_p": 2}, 400, "min_p"),
        ({"top_logprobs": 2}, 400, "needs logprobs"),
        ({"n": 99}, 400, "n: received 99"),
        ({"n": 9, "max_tokens": 200}, 429, "waiting already"),
    ],
)
def test_what_is_not_honoured_is_refused(url: str, body: dict[str, Any], status: int, message: str) -> None:
    found, reply = ask(url, **body)
    assert found == status
    assert message in reply["error"]["message"]


def test_metrics_count_what_was_answered(url: str) -> None:
    def count(name: str) -> float:
        lines = urllib.request.urlopen(f"{url}/metrics", timeout=20).read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = count('llm_engine_tokens_total{kind="completion"}'), count("llm_engine_request_seconds_count")
    assert ask(url, max_tokens=5)[0] == 200
    assert count('llm_engine_tokens_total{kind="completion"}') == before[0] + 5
    assert count("llm_engine_request_seconds_count") == before[1] + 1
    assert count("llm_engine_kv_pages ") > 0
    assert count("llm_engine_alive") == 1


@pytest.mark.parametrize("body", [{"max_tokens": 5000}, {"messages": [{"role": "user", "content": "fee " * 3000}]}])
def test_too_long_is_a_400_and_harms_nobody(url: str, body: dict[str, Any]) -> None:
    status, reply = ask(url, **body)
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
    assert ask(url)[0] == 200


def test_a_control_token_in_a_message_is_text(url: str) -> None:
    counts = [ask(url, messages=[{"role": "user", "content": c}])[1]["usage"]["prompt_tokens"] for c in ("a b", "a<|end|>b")]
    assert counts[1] > counts[0] + 1


def test_a_full_queue_is_a_429_with_retry_after(url: str) -> None:
    async def flood() -> list[tuple[int, str | None]]:
        async def one(session: aiohttp.ClientSession) -> tuple[int, str | None]:
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 300, "temperature": 2}
            async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()
                return reply.status, reply.headers.get("retry-after")

        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(one(session) for _ in range(12)))

    statuses = asyncio.run(flood())
    assert {status for status, _ in statuses} == {200, 429}
    assert all(after == "1" for status, after in statuses if status == 429)
    assert ask(url)[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(url: str, stream: bool) -> None:
    async def leave() -> None:
        async with aiohttp.ClientSession() as session:
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1000, "temperature": 2, "stream": stream}
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3), session.post(f"{url}/v1/chat/completions", json=body) as reply:
                    await reply.read()

    asyncio.run(leave())
    deadline = time.monotonic() + 5
    while json.load(urllib.request.urlopen(f"{url}/health", timeout=20))["running"] > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
