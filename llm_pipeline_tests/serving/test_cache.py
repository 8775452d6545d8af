"""The answer cache: what may be answered from memory, for whom, and for how long."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pipeline.errors import ConfigError
from llm_pipeline.records import Interaction
from llm_pipeline.serving.cache.answers import Answer, AnswerCache, CacheSettings, cache_settings
from llm_pipeline.serving.cache.facts import facts
from llm_pipeline.serving.cache.semantic import MOST_ALIKE, MOST_WAITING, Space, Vector
from llm_pipeline.serving.gateway.protocol import ChatRequest
from llm_pipeline.serving.protection.keys import Key
from llm_pipeline.store import content_hash
from llm_pipeline_tests.serving.gateways import FakeEngine, Place, gateway, served

EXACT, SEMANTIC = CacheSettings(exact=True), CacheSettings(exact=True, semantic=True, threshold=0.9, wait_seconds=10)


def ask(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=[{"role": "user", "content": text}], **fields)


def key(*labels: str, identity: int = 1) -> Key:
    return Key(identity, f"key-{identity}", frozenset({"chat"}), frozenset(labels))


@dataclass(frozen=True)
class Arm:
    release: str
    engine: Mapping[str, Any]


def arm(settings: CacheSettings, release: str = "r1") -> Arm:
    return Arm(f"{release}-{content_hash(asdict(settings))}", {"cache": asdict(settings)})


def answered(text: str, release: str = "r1", **changes: Any) -> Interaction:
    plain = Interaction(
        id="i1", received_at="2026-01-02T10:00:00+00:00", release=release, key="k", messages=[], answer=text, finish_reason="stop",
        passages=[], usage={"prompt_tokens": 3, "completion_tokens": 2}, seconds={"total": 0.1}, guardrails=[],
    )  # fmt: skip
    return replace(plain, **changes)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def put(cache: AnswerCache, request: ChatRequest, who: Key, text: str, settings: CacheSettings = EXACT, **changes: Any) -> bool:
    route = arm(settings, changes.pop("release", "r1"))
    found = await cache.lookup(request, route, who)
    kept = cache.store(found, answered(text, route.release, **changes))
    await asyncio.sleep(0)
    return kept


async def state(cache: AnswerCache, request: ChatRequest, who: Key, settings: CacheSettings = EXACT, release: str = "r1") -> str:
    found = await cache.lookup(request, arm(settings, release), who)
    cache.release(found)
    return found.state


def test_the_same_question_is_answered_from_memory_with_all_that_was_replied() -> None:
    async def work() -> None:
        cache = AnswerCache()
        passages = [{"id": "p", "uri": "u", "score": 0.5}]
        settings = CacheSettings(exact=True, retrieved=True)
        assert await put(cache, ask("Fee?"), key("a"), "5 €", settings, passages=passages)
        found = await cache.lookup(ask(" Fee? ", stream=True, user="somebody"), arm(settings, "r1"), key("a", identity=2))
        assert found.state == "hit"
        assert found.answer == Answer("5 €", "stop", {"prompt_tokens": 3, "completion_tokens": 2}, passages, "i1")
        assert cache.counts == {"miss": 1, "stored": 1, "hit": 1}

    run(work())


@pytest.mark.parametrize(
    "other",
    [ask("Fees?"), ask("Fee?", max_tokens=3), ask("Fee?", stop=("x",)), ask("Fee?", top_p=0.5), ask("Fee?", retrieval=True), ask("fee?"),
     ChatRequest([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Fee?"}])],
)  # fmt: skip
def test_whatever_could_change_the_answer_is_another_question(other: ChatRequest) -> None:
    async def work() -> None:
        cache = AnswerCache()
        await put(cache, ask("Fee?"), key(), "5")
        assert await state(cache, other, key()) == "miss"

    run(work())


LABELS = st.frozensets(st.sampled_from(["acme", "globex", "initech"]), max_size=3)


@given(LABELS, LABELS, st.sampled_from(["labels", "key", "user"]), st.booleans())
def test_no_answer_crosses_tenants(mine: frozenset[str], theirs: frozenset[str], scope: Any, semantic: bool) -> None:
    async def work() -> None:
        settings = replace(SEMANTIC if semantic else EXACT, scope=scope)
        cache = AnswerCache(load=lambda: lambda text: np.ones(2, np.float32) / np.float32(2**0.5))
        if semantic:
            await cache.encoder.loaded()
        await put(cache, ask("What is the fee?", user="ann"), key(*mine), "5", settings)
        found = await cache.lookup(ask("what is our fee", user="ann"), arm(settings, "r1"), key(*theirs))
        same = await cache.lookup(ask("What is the fee?", user="ann"), arm(settings, "r1"), key(*theirs, identity=2))
        if mine != theirs:
            assert found.answer is None
            assert same.answer is None
        elif scope == "labels":
            assert same.state == "hit"
            assert found.state == ("semantic" if semantic else "miss")
        else:
            assert same.answer is None
        cache.close()

    run(work())


def test_one_user_of_a_key_does_not_get_another_ones_answer_when_the_scope_says_so() -> None:
    async def work() -> None:
        cache, settings = AnswerCache(), CacheSettings(exact=True, scope="user")
        await put(cache, ask("Fee?", user="ann"), key(), "5", settings)
        assert await state(cache, ask("Fee?", user="bob"), key(), settings) == "miss"
        assert await state(cache, ask("Fee?", user="ann"), key(), settings) == "hit"

    run(work())


@pytest.mark.parametrize(
    "changes",
    [{"guardrails": ["output:email"]}, {"guardrail_events": [{"rule": "input:x", "action": "flag"}]}, {"finish_reason": "content_filter"},
     {"finish_reason": "cancelled"}, {"answer": ""}, {"passages": [{"id": "p"}]}, {"status": 503}],
)  # fmt: skip
def test_an_answer_that_anything_happened_to_is_not_kept(changes: dict[str, Any]) -> None:
    async def work() -> None:
        cache = AnswerCache()
        found = await cache.lookup(ask("Fee?"), arm(EXACT, "r1"), key())
        assert not cache.store(found, replace(answered("5", found.release), **changes))
        assert await state(cache, ask("Fee?"), key()) == "miss"

    run(work())


def test_only_greedy_single_texts_and_only_where_the_release_says_so() -> None:
    async def work() -> None:
        cache = AnswerCache()
        assert await state(cache, ask("Fee?"), key(), CacheSettings()) == ""
        assert await state(cache, ask("Fee?", temperature=0.7), key()) == ""
        assert await state(cache, ask("Fee?", temperature=0.7), key(), replace(EXACT, sampled=True)) == "miss"
        assert await state(cache, ask("Fee?", logprobs=True), key()) == ""

    run(work())


def test_equal_questions_at_the_same_time_wait_for_one_answer() -> None:
    async def work() -> None:
        cache, route = AnswerCache(), arm(EXACT)

        def asked(who: Key) -> asyncio.Task[Any]:
            return asyncio.create_task(cache.lookup(ask("Fee?"), route, who))

        first, others, stranger = await asked(key("a")), [asked(key("a")) for _ in range(3)], asked(key("b"))
        assert (first.state, (await stranger).state) == ("miss", "miss")  # other labels wait for nobody
        await asyncio.sleep(0)
        assert not any(other.done() for other in others)
        assert cache.store(first, answered("5", route.release))
        assert [(await other).answer.text for other in others] == ["5", "5", "5"]
        assert cache.counts == {"miss": 2, "hit": 3, "stored": 1}

    run(work())


def test_a_leader_that_fails_hands_over_and_one_whose_answer_is_not_kept_holds_nobody_up() -> None:
    async def work() -> None:
        cache, route = AnswerCache(), arm(EXACT)
        first = await cache.lookup(ask("Fee?"), route, key())
        others = [asyncio.create_task(cache.lookup(ask("Fee?"), route, key())) for _ in range(4)]
        await asyncio.sleep(0)
        cache.release(first)  # failed or cancelled: exactly one of the others takes its place
        done, waiting = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        second = done.pop().result()
        assert (second.state, len(done), len(waiting)) == ("miss", 0, 3)
        waiting.pop().cancel()  # nobody misses one that gives up
        assert not cache.store(second, answered("?", route.release, guardrails=["output:pii"]))
        states = [(await other).state for other in waiting if not other.cancelling()]
        assert states == ["miss", "miss"]
        assert await state(cache, ask("Fee?"), key()) == "miss"  # and the next one leads again

    run(work())


def test_answers_over_passages_that_are_not_kept_are_not_waited_for() -> None:
    async def work() -> None:
        cache, route = AnswerCache(), arm(EXACT)
        for _ in range(2):
            assert (await cache.lookup(ask("Fee?"), route, key(), retrieves=True)).state == "miss"

    run(work())


def test_a_gateway_asks_its_engine_once_for_equal_questions_at_the_same_time(tmp_path: Path) -> None:
    held = threading.Event()
    engine = FakeEngine(["5 ", held, "euros"])
    with served(engine) as url:
        raw = {"upstreams": {"a": {"url": url}}, "models": {"default": {"cache": {"exact": True}}}}
        with gateway(tmp_path, raw) as place, ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(talk, place, stream=i % 2 == 0) for i in range(6)]
            deadline = time.monotonic() + 60
            while not re.search(r"^llm_requests_in_flight\S* 6\b", shown := httpx.get(f"{place.url}/metrics").text, re.MULTILINE):
                assert time.monotonic() < deadline, shown
            held.set()
            texts = [one.result().text for one in asked]
            rows = place.logged()
    assert len(engine.bodies) == 1
    assert all("euros" in text for text in texts)
    assert sorted(row["cache"] for row in rows) == ["hit"] * 5 + ["miss"]
    assert {row["answer"] for row in rows} == {"5 euros"}


def test_a_new_release_starts_empty_and_a_dropped_one_is_freed() -> None:
    async def work() -> None:
        cache = AnswerCache()
        await put(cache, ask("Fee?"), key(), "5")
        await put(cache, ask("Fee?"), key(), "6", release="r2")
        assert (await cache.lookup(ask("Fee?"), arm(EXACT, "r2"), key())).answer.text == "6"  # type: ignore[union-attr]
        cache.keep([arm(EXACT, "r2").release])
        assert len(cache) == 1
        assert await state(cache, ask("Fee?"), key()) == "miss"
        cache.clear()
        assert (len(cache), cache.bytes) == (0, 0)

    run(work())


def test_answers_expire_and_the_least_used_makes_room() -> None:
    now = 0.0

    async def work() -> None:
        nonlocal now
        cache = AnswerCache(most_bytes=3000, clock=lambda: now)
        for name in "abc":
            await put(cache, ask(name), key(), "x" * 300)
        assert await state(cache, ask("a"), key()) == "hit"
        await put(cache, ask("d"), key(), "x" * 300)
        assert [await state(cache, ask(name), key()) for name in "abcd"] == ["hit", "miss", "hit", "hit"]
        assert cache.bytes <= 3000
        assert not await put(cache, ask("e"), key(), "x" * 5000)
        now = EXACT.ttl_seconds
        assert await state(cache, ask("a"), key()) == "miss"
        assert cache.counts["expired"] == 1

    run(work())


def embed(text: str) -> Vector:
    """Near for the same first word, far otherwise."""
    angle = 0.2 * (len(text) % 3) + 1.5 * (text.split()[0].lower() != "what")
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def test_another_wording_is_found_by_meaning_unless_its_facts_differ() -> None:
    async def work() -> None:
        cache = AnswerCache(load=lambda: embed)
        assert await state(cache, ask("What is the fee?"), key(), SEMANTIC) == "miss"  # the model loads meanwhile
        await cache.encoder.loaded()
        await put(cache, ask("What is the fee for 2 cards?"), key(), "10", SEMANTIC)
        assert await state(cache, ask("what do two cards cost me"), key(), SEMANTIC) == "semantic"
        assert await state(cache, ask("what do three cards cost me"), key(), SEMANTIC) == "miss"
        assert await state(cache, ask("who pays for 2 cards?"), key(), SEMANTIC) == "miss"
        other = ChatRequest([{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "what do two cards cost me"}])
        assert await state(cache, other, key(), SEMANTIC) == "miss"
        assert await state(cache, ask("what do two cards cost me", max_tokens=9), key(), SEMANTIC) == "miss"
        assert await state(cache, ask("what do two cards cost me"), key(), SEMANTIC, release="r2") == "miss"
        cache.clear()
        assert await state(cache, ask("what do two cards cost me"), key(), SEMANTIC) == "miss"
        cache.close()

    run(work())


def test_a_slow_or_overrun_model_makes_misses_and_no_waiting() -> None:
    go = threading.Event()

    def slow(text: str) -> Vector:
        go.wait(30)
        return embed(text)

    async def work() -> None:
        cache, settings = AnswerCache(load=lambda: slow), replace(SEMANTIC, wait_seconds=0.001)
        await cache.encoder.loaded()
        asked = [await cache.lookup(ask(f"what fee{'!' * i}"), arm(settings), key()) for i in range(MOST_WAITING + 5)]
        assert {found.state for found in asked} == {"miss"}
        assert sum(found.vector is not None for found in asked) == MOST_WAITING
        assert cache.store(asked[0], answered("5", asked[0].release))  # its vector comes later
        go.set()
        await asyncio.gather(*(found.vector for found in asked if found.vector is not None))
        await asyncio.sleep(0)
        states = [await state(cache, ask("What fee!!!"), key(), settings) for _ in range(200)]
        assert "semantic" in states
        cache.close()

    run(work())


def test_a_model_that_does_not_load_leaves_the_exact_cache_working() -> None:
    def broken() -> Any:
        raise OSError("no such model")

    async def work() -> None:
        cache = AnswerCache(load=broken)
        with pytest.raises(OSError, match="no such model"):
            await cache.encoder.loaded()
        await put(cache, ask("Fee?"), key(), "5", SEMANTIC)
        assert await state(cache, ask("Fee?"), key(), SEMANTIC) == "hit"
        assert await state(cache, ask("Fees?"), key(), SEMANTIC) == "miss"
        cache.close()

    run(work())


def test_a_space_keeps_its_vectors_in_step_with_its_keys() -> None:
    space, random = Space(), np.random.default_rng(0)
    vectors = {b"%d" % i: np.asarray(random.normal(size=8), np.float32) for i in range(40)}
    for name, vector in vectors.items():
        space.add(name, vector / np.float32(np.linalg.norm(vector)))
    for name in list(vectors)[::3]:
        space.remove(name)
        del vectors[name]
    for name, vector in vectors.items():
        assert space.nearest(vector / np.float32(np.linalg.norm(vector))) == (name, pytest.approx(1.0, abs=1e-5))
    for i in range(MOST_ALIKE):
        space.add(b"x%d" % i, np.ones(8, np.float32))
    assert len(space) == MOST_ALIKE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What was the fee in 2024?", "What was the fee in 2025?"),
        ("Is there a fee with insurance?", "Is there a fee without insurance?"),
        ("Can I pay?", "Can't I pay?"),
        ("Does Visa work abroad?", "Does it work abroad with Maestro?"),
        ("open on Monday?", "open on sunday?"),
        ("How do I enable it?", "How do I disable it?"),
        ("send $5", "send €5"),
        ("plan A4x", "plan B4x"),
        ("what does \"due\" mean", "what does \"paid\" mean"),
    ],
)  # fmt: skip
def test_questions_of_other_facts_differ(one: str, other: str) -> None:
    assert facts(one) != facts(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the fee for 2 cards?", "what do two cards cost?"),
        ("Is it $1,000?", "it is $1000, is it"),
        ("I can't pay", "I am not able to pay"),
        ("What's Anna's rate?", "the rate of Anna"),
    ],
)
def test_wordings_of_the_same_facts_agree(one: str, other: str) -> None:
    assert facts(one) == facts(other)


def test_settings_are_checked() -> None:
    assert cache_settings({"name": "transformers"}) == CacheSettings()
    assert cache_settings({"cache": {"exact": True}}).on
    with pytest.raises(ConfigError, match="treshold"):
        cache_settings({"cache": {"treshold": 0.5}})
    with pytest.raises(ConfigError, match="threshold above 0"):
        CacheSettings(threshold=0)


def test_a_release_with_wrong_settings_answers_without_a_cache(caplog: pytest.LogCaptureFixture) -> None:
    found = run(AnswerCache().lookup(ask("Fee?"), Arm("r", {"cache": {"treshold": 1}}), key()))
    assert (found.state, found.answer) == ("", None)
    assert "treshold" in caplog.text


def test_a_gateway_replies_the_same_from_memory_says_so_and_records_it_at_no_cost(tmp_path: Path) -> None:
    engine = FakeEngine(["5", " €"])
    prices = {"prices": {"prompt": 1.0, "completion": 1.0}}
    with served(engine) as url:
        raw = {"upstreams": {"a": {"url": url, **prices}}, "models": {"default": {"cache": {"exact": True}}, "plain": {}}}
        with gateway(tmp_path, raw) as place:
            replies = [talk(place), talk(place), talk(place, stream=True), talk(place, temperature=0.5), talk(place, model="plain")]
            rows = place.logged()
    assert [reply.headers.get("x-cache") for reply in replies] == ["miss", "hit", "hit", None, None]
    assert len(engine.bodies) == 3
    first, second = (reply.json() for reply in replies[:2])
    assert second["choices"] == first["choices"]
    assert (first["usage"]["total_tokens"], second["usage"]["total_tokens"]) == (9, 0)
    assert "5 €" in "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in events(replies[2]))
    assert [row["cache"] for row in rows] == ["miss", "hit", "hit", "", ""]
    assert [row["answer"] for row in rows] == ["5 €"] * 5
    assert [row["cost"] > 0 for row in rows] == [True, False, False, True, True]
    assert len({row["id"] for row in rows}) == 5


def talk(place: Place, **body: Any) -> httpx.Response:
    body = {"model": "default", "messages": [{"role": "user", "content": "Fee?"}]} | body
    return httpx.post(f"{place.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {place.key}"}, timeout=30)


def events(reply: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]
