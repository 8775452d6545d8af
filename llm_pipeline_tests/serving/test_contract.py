"""Our worker passes the whole contract; an engine that ignores what it is asked fails the cases that say so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llm_pipeline.serving.engine.contract import check, table
from llm_pipeline_tests.serving.engines import running_engine


@pytest.mark.slow
def test_our_worker_passes(model: Path, tmp_path: Path) -> None:
    with running_engine(model, tmp_path / "engine.log", "--name", "tiny", "--in-flight", "16") as url:
        verdicts = asyncio.run(check(url))
    assert {verdict.status for verdict in verdicts} == {"passed"}, table(verdicts)


@asynccontextmanager
async def careless() -> AsyncIterator[str]:
    """Says the same whatever it is asked, and refuses one field outright."""

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        if "seed" in body:
            return web.json_response({"error": {"message": "no seeds here"}}, status=400)
        message = {"role": "assistant", "content": "always the same answer"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
        return web.json_response({"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "careless"}]})

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/load_model", complete)
    app.router.add_get("/v1/models", models)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def _careless_verdicts() -> dict[str, str]:
    left = ("a_client_that_leaves_a_whole_answer_frees_its_place", "a_client_that_leaves_a_stream_frees_its_place")
    from llm_pipeline.serving.engine.contract_cases import CASES

    async with careless() as url:
        verdicts = await check(url, only=[case for case in CASES if case not in left])
    return {verdict.case: verdict.status for verdict in verdicts}


def test_an_engine_that_ignores_its_requests_fails() -> None:
    found = asyncio.run(_careless_verdicts())
    assert {case for case, status in found.items() if status == "passed"} == {
        "models_are_listed",
        "top_p_narrows",
        "greedy_is_undisturbed_by_neighbours",
        "a_flood_is_answered_or_429",
        "equal_request_ids_are_two_requests",
        "it_answers_to_the_end",
    }
    assert {case for case, status in found.items() if status == "refused"} == {"a_seed_repeats", "text_completions"}


def test_an_address_where_nothing_listens_fails_every_case() -> None:
    verdicts = asyncio.run(check("http://127.0.0.1:9", only=["models_are_listed", "json_is_as_asked"]))
    assert [verdict.status for verdict in verdicts] == ["failed", "failed"]
    assert "0 of 2 cases hold" in table(verdicts)
    json.dumps([verdict.detail for verdict in verdicts])
