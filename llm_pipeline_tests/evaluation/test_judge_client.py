"""The judge's endpoint may be slow, busy or broken: what can be had is had once, what cannot is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from llm_pipeline.errors import ConfigError, EndpointError
from llm_pipeline.evaluation.judge_client import Endpoint, ask_all, retry_after
from llm_pipeline.evaluation.judge_replies import Reply, Usage
from llm_pipeline_tests.evaluation.judge_server import Answer, Script, completion

Start = Callable[[Callable[[dict[str, Any], int], Answer]], Script]


@pytest.fixture
def start() -> Iterator[Start]:
    scripts: list[Script] = []

    def make(reply: Callable[[dict[str, Any], int], Answer]) -> Script:
        scripts.append(Script(reply))
        return scripts[-1]

    yield make
    for script in scripts:
        script.close()


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Waits:
    """Takes the place of sleeping and keeps how long it would have taken."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def test_replies_come_in_order_and_equal_questions_are_asked_once(start: Start) -> None:
    script = start(lambda body, n: completion(body["messages"][0]["content"].upper()))
    endpoint = Endpoint(script.url, "m", price_in=100, price_out=1000, concurrency=3)
    replies, usage = ask_all(endpoint, [said(f"q{i % 10}") for i in range(20)])
    assert [reply.text for reply in replies] == [f"Q{i % 10}" for i in range(20)]
    assert len(script.bodies) == 10
    assert script.most <= 3
    assert script.bodies[0]["model"] == "m"
    assert script.bodies[0]["temperature"] == 0
    summary = usage.summary(endpoint.cost)
    assert (summary["tokens_in"], summary["tokens_out"], summary["cost"]) == (100, 20, pytest.approx(0.03))


def test_a_rerun_asks_nothing_and_another_model_asks_anew(start: Start, tmp_path: Path) -> None:
    script = start(lambda body, n: completion(f"reply {n}"))
    cache = tmp_path / "deep" / "replies.sqlite"
    first, _ = ask_all(Endpoint(script.url, "m"), [said("a"), said("b")], cache)
    again, usage = ask_all(Endpoint(script.url, "m"), [said("a"), said("b")], cache)
    assert [r.text for r in again] == [r.text for r in first]
    assert (usage.requests, usage.cached, usage.tokens_in) == (2, 2, 0)
    assert len(script.bodies) == 2
    ask_all(Endpoint(script.url, "other"), [said("a")], cache)
    ask_all(Endpoint(script.url, "m", sampling={"temperature": 1}), [said("a")], cache)
    assert len(script.bodies) == 4


def test_a_busy_server_is_asked_again_after_the_time_it_names(start: Start) -> None:
    script = start(lambda body, n: completion() if n > 3 else (429 if n < 3 else 503, {}, {"Retry-After": "7"} if n < 3 else {}))
    waits = Waits()
    replies, usage = ask_all(Endpoint(script.url, "m", concurrency=1, back_off=0.5), [said("a")], sleep=waits)
    assert replies[0].text == "fine"
    assert replies[0].attempts == 4
    assert usage.retries == 3
    assert waits.seconds[0] == pytest.approx(7, abs=0.5)
    assert 2.0 in waits.seconds


def test_back_off_doubles_up_to_the_longest_wait_and_then_gives_up(start: Start) -> None:
    script = start(lambda body, n: (500, {"error": {"message": "out of memory"}}, {}))
    waits = Waits()
    replies, usage = ask_all(Endpoint(script.url, "m", attempts=5, back_off=1, most_wait=3), [said("a")], sleep=waits)
    assert waits.seconds == [1, 2, 3, 3]
    assert replies[0].error == "HTTP 500: out of memory (5 attempts)"
    assert usage.failed == 1


def test_a_pause_that_is_too_long_fails_the_request_at_once(start: Start) -> None:
    script = start(lambda body, n: (429, {}, {"Retry-After": "86400"}))
    replies, _ = ask_all(Endpoint(script.url, "m"), [said("a")], sleep=Waits())
    assert "asked to wait 86400 s" in replies[0].error
    assert len(script.bodies) == 1


def test_failures_are_not_kept(start: Start, tmp_path: Path) -> None:
    script = start(lambda body, n: completion() if n > 1 else (400, {"error": "context too long"}, {}))
    endpoint, cache = Endpoint(script.url, "m"), tmp_path / "replies.sqlite"
    assert ask_all(endpoint, [said("a")], cache)[0][0].error == "HTTP 400: context too long"
    assert ask_all(endpoint, [said("a")], cache)[0][0].text == "fine"


def test_a_wrong_key_ends_the_run(start: Start) -> None:
    script = start(lambda body, n: (401, {"error": {"message": "bad key"}}, {}))
    with pytest.raises(EndpointError, match="HTTP 401: bad key"):
        ask_all(Endpoint(script.url, "m", concurrency=2), [said(str(i)) for i in range(50)])
    assert len(script.bodies) <= 4


def test_the_key_comes_from_the_environment_and_does_not_follow_a_redirect(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    thief = start(lambda body, n: completion())
    script = start(lambda body, n: completion() if n == 1 else (307, {}, {"Location": thief.url + "/chat/completions"}))
    with pytest.raises(ConfigError, match="'JUDGE_KEY' is not set"):
        ask_all(Endpoint(script.url, "m", key_env="JUDGE_KEY"), [said("a")])
    monkeypatch.setenv("JUDGE_KEY", "secret")
    endpoint = Endpoint(script.url, "m", key_env="JUDGE_KEY")
    ask_all(endpoint, [said("a")])
    assert script.headers[0]["Authorization"] == "Bearer secret"
    assert ask_all(endpoint, [said("b")])[0][0].error.startswith("HTTP 307")
    assert thief.bodies == []
    assert "secret" not in repr(endpoint)


@pytest.mark.parametrize("body", [b"<html>hello</html>", {"choices": []}, {"choices": [{"message": None}]}, [], b"\xff"])
def test_what_is_no_completion_is_an_error_of_its_case(start: Start, body: Any) -> None:
    script = start(lambda _, n: completion() if n > 1 else (200, body, {}))
    replies, _ = ask_all(Endpoint(script.url, "m", concurrency=1), [said("a"), said("b")])
    assert replies[0].error.startswith("not a chat completion")
    assert replies[1].text == "fine"


def test_a_server_that_is_not_there_or_never_answers_is_recorded(start: Start) -> None:
    gate = threading.Event()

    def slow(body: dict[str, Any], n: int) -> Answer:
        gate.wait(30)
        return completion()

    script = start(slow)
    replies, _ = ask_all(Endpoint(script.url, "m", timeout=0.2, attempts=2), [said("a")], sleep=Waits())
    gate.set()
    assert "TimeoutError" in replies[0].error
    closed = start(lambda body, n: completion())
    url = closed.url
    closed.server.server_close()
    replies, _ = ask_all(Endpoint(url, "m", attempts=2), [said("a")], sleep=Waits())
    assert "ClientConnectorError" in replies[0].error


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("12") == 12
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert retry_after(later) == pytest.approx(90, abs=5)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("") is None
    assert retry_after("soon") is None


def test_settings_are_checked_when_built() -> None:
    with pytest.raises(ConfigError, match="http"):
        Endpoint("localhost:8000", "m")
    with pytest.raises(ConfigError, match="concurrency"):
        Endpoint("http://localhost", "m", concurrency=0)


def test_latencies_are_those_of_what_was_really_asked() -> None:
    usage = Usage()
    for reply in (Reply(seconds=1, attempts=1), Reply(seconds=3, attempts=2), Reply(seconds=9, attempts=1, cached=True)):
        usage.count(reply)
    found = usage.summary(Endpoint("http://x", "m").cost)
    assert (found["seconds_p50"], found["seconds_p95"], found["retries"], found["cached"]) == (3, 3, 1, 1)
