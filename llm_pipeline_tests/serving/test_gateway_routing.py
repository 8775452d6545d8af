"""Which engine answers what: escalation, tasks, circuit breaker, and the file of a gateway that runs alone."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from llm_pipeline.config import build
from llm_pipeline.errors import ConfigError
from llm_pipeline.paths import DATA
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.gateway.embedding import Embeddings
from llm_pipeline.serving.gateway.protocol_more import parse_embedding
from llm_pipeline.serving.gateway.settings import GatewaySettings
from llm_pipeline.serving.gateway.standalone import Alone, load_alone
from llm_pipeline.serving.gateway.upstream import Breaker
from llm_pipeline.serving.gateway.upstream_ask import Engines
from llm_pipeline.serving.gateway.upstream_plan import Plan, Task, plan_of
from llm_pipeline.serving.supervision.processes import free_port
from llm_pipeline_tests.serving.gateways import FakeEngine, chunk, served
from llm_pipeline_tests.serving.test_gateway import ask, auth, content, running, until

ESCALATE = {"order": ["a"], "escalate": {"to": "b", "mean_logprob": -1.0, "refusals": ["^I cannot"]}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "required": ["fee"]}}}


@pytest.mark.parametrize(
    ("steps", "more", "why"),
    [
        ([chunk("sure", logprob=-0.2)], {}, None),
        ([chunk("perhaps", logprob=-2.5)], {}, "unsure"),
        (["I cannot say"], {}, "refused"),
        ([""], {}, "empty"),
        (["no json"], {"response_format": SCHEMA}, "schema"),
        (['{"fee": 3}'], {"response_format": SCHEMA}, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_the_large_model_answers_where_the_small_one_is_weak(
    tmp_path: Path, steps: list[Any], more: dict[str, Any], why: str | None, stream: bool
) -> None:
    small, large = FakeEngine(steps), FakeEngine(["from the large one"])
    with running(tmp_path, small, large, upstream={"prices": {"completion": 1.0}}, models={"default": ESCALATE}) as place:
        said = content(ask(place, stream=stream, **more))
        row = place.logged()[0]
    assert (said == "from the large one") == (why is not None)
    assert row["upstreams"][0].get("escalated") == why
    assert row["answer"] == said
    assert row["cost"] == pytest.approx(0.001 * (1 + (why is not None)))  # both were paid for
    assert small.bodies[0]["logprobs"] is True


def test_a_weak_answer_is_better_than_none(tmp_path: Path) -> None:
    with running(tmp_path, FakeEngine(["I cannot"]), FakeEngine([HttpError(500, "broken")]), models={"default": ESCALATE}) as place:
        assert content(ask(place)) == content(ask(place, stream=True)) == "I cannot"
        assert [tried["status"] for tried in place.logged()[0]["upstreams"]] == [200, 503]


def test_tasks_go_to_special_models(tmp_path: Path) -> None:
    models = {
        "default": {
            "order": ["a"],
            "tasks": [{"name": "sql", "upstream": "b", "keywords": ["select"]}, {"name": "law", "release": "legal"}],
        },
        "legal": {"order": ["c"]},
    }
    with running(tmp_path, FakeEngine(["general"]), FakeEngine(["SQL"]), FakeEngine(["law"]), models=models) as place:
        assert content(ask(place)) == "general"
        assert content(ask(place, messages=[{"role": "user", "content": "Please SELECT all accounts"}])) == "SQL"
        assert content(ask(place, metadata={"task": "law"})) == "law"
        assert content(ask(place, model="legal")) == "law"
        assert [row["release"] for row in place.logged()] == ["default", "default", "legal", "legal"]
        assert place.logged()[2]["variant"] == "default"
        names = [m["id"] for m in httpx.get(f"{place.url}/v1/models", headers=auth(place)).json()["data"]]
    assert names == ["default", "legal"]


def test_the_breaker_lets_one_request_try_after_its_pause() -> None:
    breaker = Breaker(2, 10.0)
    breaker.note(good=False, now=0.0)
    assert breaker.allows(0.0)
    breaker.note(good=False, now=1.0)
    assert not breaker.allows(10.9)
    assert breaker.allows(11.0)
    assert not breaker.allows(11.0)  # the probe is under way
    breaker.note(good=True, now=12.0)
    assert breaker.allows(12.0)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "at least one upstream"),
        ({"upstreams": {"a": {"url": "ftp://x"}}}, "http"),
        ({"upstreams": {"a": {"url": "http://x", "key_variable": "NO_SUCH_VARIABLE"}}}, "NO_SUCH_VARIABLE is not set"),
        ({"upstreams": {"a": {"url": "http://x", "unsupported": ["tool"]}}}, "did you mean 'tools'"),
        ({"upstreams": {"small": {"url": "http://x"}}, "models": {"default": {"order": ["smal"]}}}, "did you mean 'small'"),
        ({"upstreams": {"a": {"url": "http://x"}}, "models": {"m": {"order": ["engine"]}}}, "no 'engine' here"),
        ({"upstreams": {"a": {"url": "http://x"}}, "models": {"m": {"tasks": [{"name": "t", "release": "n"}]}}}, "unknown model 'n'"),
        ({"upstreams": {"a": {"url": "http://x"}}, "embeddings": "b"}, "unknown upstream 'b'"),
        (
            {"upstreams": {"a": {"url": "http://x"}}, "models": {"m": {"cache": {"exat": True}}}},
            "model 'm': cache: .* did you mean 'exact'",
        ),
    ],
)
def test_a_wrong_file_says_what_is_wrong(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(Alone, raw, "gateway.yaml")


def test_a_release_plans_in_its_engine_settings() -> None:
    assert plan_of({"name": "transformers"}, "r") == Plan()
    raw = {"upstreams": {"spare": {"url": "http://x"}}, "order": ["engine", "spare"], "tasks": [{"name": "t", "upstream": "spare"}]}
    assert plan_of({"name": "transformers", "routing": raw}, "r").task({"task": "t"}, "?") == Task("t", upstream="spare")
    with pytest.raises(ConfigError, match="not a regular expression"):
        Task("t", upstream="spare", pattern="(")


def test_the_embedder_of_the_releases_index_embeds() -> None:
    class Lengths:
        def embed(self, texts: list[str]) -> Any:
            return np.array([[len(text), 1.0] for text in texts], np.float32)

    async def embed(body: dict[str, Any], arm: Any) -> dict[str, Any]:
        found = Embeddings(GatewaySettings(), Engines(10), None)
        try:
            return await found.embed(parse_embedding(body, 100), arm)
        finally:
            found.close()

    arm = SimpleNamespace(route=SimpleNamespace(searcher=SimpleNamespace(embedder=Lengths())))
    plain = asyncio.run(embed({"input": ["a", "bcd"]}, arm))
    assert [item["embedding"] for item in plain["data"]] == [[1.0, 1.0], [3.0, 1.0]]
    packed = asyncio.run(embed({"input": "bcd", "encoding_format": "base64"}, arm))["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == [3.0, 1.0]
    with pytest.raises(HttpError, match="no embedder"):
        asyncio.run(embed({"input": "a"}, None))
    with pytest.raises(HttpError, match="more than 100 characters"):
        parse_embedding({"input": "x" * 101}, 100)


def test_the_shipped_file_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGE_MODEL_KEY", "secret")
    settings = load_alone(DATA / "gateway.yaml")
    assert settings.plan(settings.models["default"]).escalate is not None
    assert "secret" not in repr(settings)


@pytest.mark.slow
def test_two_gateways_share_a_port_from_the_command_line(tmp_path: Path) -> None:
    port = free_port()
    command = [str(Path(sys.executable).parent / "llm-pipeline"), "gateway", "--folder", str(tmp_path), "--port", str(port), "--reuse-port"]
    with served(FakeEngine(["fine"])) as url, ExitStack() as stack:
        started = [subprocess.Popen([*command, "--upstream", url]) for _ in range(2)]
        for process in started:
            stack.callback(process.wait)
            stack.callback(process.kill)
        until(lambda: (tmp_path / "key.json").exists() and len(list((tmp_path / "interactions").glob("*"))) == 2)
        key = httpx.Response(200, text=(tmp_path / "key.json").read_text()).json()["key"]

        def reply() -> httpx.Response | None:
            try:
                body = {"messages": [{"role": "user", "content": "x"}]}
                return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
            except httpx.HTTPError:
                return None

        until(lambda: (found := reply()) is not None and found.status_code == 200)
        started[0].kill()
        started[0].wait()
        deadline = time.monotonic() + 20
        answers = []
        while len(answers) < 5 and time.monotonic() < deadline:
            if (found := reply()) is not None:
                answers.append(found.status_code)
        assert answers == [200] * 5
