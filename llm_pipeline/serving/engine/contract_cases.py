"""The cases of the contract (contract.py): each is a coroutine that ends well, or raises `Broken`, or `Refused` where that is allowed."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

QUESTIONS = ("What is the monthly fee of the account?", "When is the help desk open?", "Count from one to ten.", "Write a short story.")
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}, "score": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["answer", "score"],
    "additionalProperties": False,
}
LEAVING = 48
FREED_SECONDS = 8.0


class Broken(Exception):
    """The engine does what no engine may."""


class Refused(Exception):
    """The engine said clearly (4xx, with an error) that it does not do this."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    headers: Any

    @property
    def text(self) -> str:
        return str(self.body["choices"][0]["message"]["content"])

    @property
    def finish(self) -> str:
        return str(self.body["choices"][0]["finish_reason"])


class Subject:
    """The engine under test, and how it is asked."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str | None) -> None:
        self.session, self.url, self.model = session, url, model

    async def body(self, question: str = QUESTIONS[0], **fields: Any) -> dict[str, Any]:
        if self.model is None:
            self.model = str((await self.get("/v1/models")).body["data"][0]["id"])
        return {"model": self.model, "messages": [{"role": "user", "content": question}], "max_tokens": 12, "temperature": 0} | fields

    async def get(self, path: str) -> Reply:
        async with self.session.get(self.url + path) as reply:
            return await _read(reply)

    async def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, headers={"content-type": "application/json", **(headers or {})}) as reply:
            return await _read(reply)

    async def ask(self, question: str = QUESTIONS[0], headers: dict[str, str] | None = None, **fields: Any) -> Reply:
        return await self.post("/v1/chat/completions", await self.body(question, **fields), headers)

    async def answer(self, question: str = QUESTIONS[0], **fields: Any) -> Reply:
        """A reply that must be 200."""
        reply = await self.ask(question, **fields)
        expect(reply.status == 200, f"{reply.status}: {str(reply.body)[:150]}")
        return reply

    async def offered(self, question: str = QUESTIONS[0], **fields: Any) -> Reply:
        """A reply that may be a refusal."""
        reply = await self.ask(question, **fields)
        if 400 <= reply.status < 500 and isinstance(reply.body, dict) and "error" in reply.body:
            raise Refused(str(reply.body["error"].get("message", ""))[:120])
        expect(reply.status == 200, f"{reply.status}: {str(reply.body)[:150]}")
        return reply

    async def stream(self, question: str = QUESTIONS[0], **fields: Any) -> list[Any]:
        """The events of a stream, parsed; the last is the text [DONE]."""
        async with self.session.post(f"{self.url}/v1/chat/completions", json=await self.body(question, stream=True, **fields)) as reply:
            expect(reply.status == 200, f"{reply.status}: {(await reply.text())[:150]}")
            lines = [line.removeprefix("data: ") for line in (await reply.text()).splitlines() if line.startswith("data: ")]
            return [line if line == "[DONE]" else json.loads(line) for line in lines]

    async def still_answers(self) -> None:
        reply = await self.ask(max_tokens=2)
        expect(reply.status == 200, f"afterwards it answers {reply.status}: {str(reply.body)[:100]}")

    async def running(self) -> float | None:
        """What /metrics says of requests under way; None where it says nothing."""
        reply = await self.get("/metrics")
        found = re.findall(r"^\S*requests_running(?:\{[^}]*\})? (\S+)$", str(reply.body), re.MULTILINE) if reply.status == 200 else []
        return sum(map(float, found)) if found else None


async def _read(reply: aiohttp.ClientResponse) -> Reply:
    text = await reply.text()
    try:
        return Reply(reply.status, json.loads(text), reply.headers)
    except ValueError:
        return Reply(reply.status, text, reply.headers)


def expect(good: bool, otherwise: str) -> None:
    if not good:
        raise Broken(otherwise)


async def models_are_listed(s: Subject) -> None:
    reply = await s.get("/v1/models")
    expect(reply.status == 200 and bool(reply.body["data"]), f"/v1/models: {reply.status}")


async def counts_and_reasons_are_right(s: Subject) -> None:
    reply = await s.answer(max_tokens=3)
    made = reply.body["usage"]["completion_tokens"]
    expect(made <= 3, f"{made} tokens for max_tokens 3")
    expect(reply.finish == ("length" if made == 3 else "stop") or made == 3, f"finish_reason {reply.finish} after {made} tokens")


async def a_stream_is_the_same_answer(s: Subject) -> None:
    whole = (await s.answer()).text
    events = await s.stream(stream_options={"include_usage": True})
    expect(events[-1] == "[DONE]", "the stream does not end with [DONE]")
    choices = [event["choices"][0] for event in events[:-1] if event["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    expect(text == whole, f"streamed {text[:60]!r}, whole {whole[:60]!r}")
    expect(choices[-1]["finish_reason"] in ("stop", "length"), f"finish_reason {choices[-1]['finish_reason']!r}")
    expect(any(event.get("usage") for event in events[:-1]), "no usage although include_usage is true")


async def sampling_is_per_request(s: Subject) -> None:
    await s.answer()
    texts = {(await s.answer(temperature=1.8, max_tokens=16)).text for _ in range(5)}
    expect(len(texts) > 1, "temperature 1.8 gives the same answer five times: the first request's parameters are kept")
    expect((await s.answer()).text == (await s.answer()).text, "greedy answers differ after sampled ones")


async def top_p_narrows(s: Subject) -> None:
    narrow = {(await s.answer(temperature=1.5, top_p=1e-6)).text for _ in range(4)}
    expect(narrow == {(await s.answer()).text}, "top_p 0.000001 is not the most likely answer")


async def greedy_is_undisturbed_by_neighbours(s: Subject) -> None:
    alone = {question: (await s.answer(question)).text for question in QUESTIONS}
    asked = [(question, temperature) for question in QUESTIONS for temperature in (0.0, 1.7)]
    replies = await asyncio.gather(*(s.answer(question, temperature=temperature) for question, temperature in asked))
    for (question, temperature), reply in zip(asked, replies, strict=True):
        expect(temperature > 0 or reply.text == alone[question], f"{question!r} is answered otherwise beside sampled requests")


async def stop_strings_never_show(s: Subject) -> None:
    for question in QUESTIONS:
        whole = (await s.answer(question, max_tokens=24)).text
        if len(whole) < 6:
            continue
        stop = whole[3:5]
        reply = await s.offered(question, max_tokens=24, stop=[stop])
        expect(reply.text == whole[: whole.index(stop)], f"stop {stop!r}: {reply.text[:60]!r} of {whole[:60]!r}")
        expect(reply.finish == "stop", f"finish_reason {reply.finish}")
        events = await s.stream(question, max_tokens=24, stop=[stop])
        choices = [event["choices"][0] for event in events if event != "[DONE]" and event["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        expect(text == reply.text, f"the stream shows {text[:60]!r} for stop {stop!r}")


async def several_choices(s: Subject) -> None:
    reply = await s.offered(n=3, temperature=1.5)
    found = sorted(choice["index"] for choice in reply.body["choices"])
    expect(found == [0, 1, 2], f"n 3 gives the choices {found}")


async def log_probabilities(s: Subject) -> None:
    for temperature in (0, 1):
        reply = await s.offered(logprobs=True, top_logprobs=2, temperature=temperature, max_tokens=4)
        entries = (reply.body["choices"][0].get("logprobs") or {}).get("content")
        if not entries:
            raise Broken("logprobs is ignored")
        expect(all(entry["logprob"] <= 1e-6 and len(entry["top_logprobs"]) == 2 for entry in entries), f"odd entries: {entries[:1]}")


async def a_seed_repeats(s: Subject) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "max_tokens": 16}
    first = (await s.offered(**fields, seed=11)).text
    beside = await asyncio.gather(s.answer(**fields, seed=11), *(s.answer(question, **fields) for question in QUESTIONS))
    expect(beside[0].text == first, "seed 11 gives another answer beside other requests")
    others = {(await s.answer(**fields, seed=seed)).text for seed in (12, 13, 14)}
    expect(len(others | {first}) > 1, "every seed gives the same answer")


async def penalties_count(s: Subject) -> None:
    async def both(question: str) -> bool:
        plain, other = await s.answer(question, max_tokens=40), await s.offered(question, max_tokens=40, frequency_penalty=2.0)
        return plain.text == other.text

    same = [await both(question) for question in QUESTIONS]
    expect(not all(same), "frequency_penalty 2 changes nothing in any answer")


async def json_is_as_asked(s: Subject) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
    for temperature in (0, 1.5):
        reply = await s.offered(response_format=form, max_tokens=60, temperature=temperature)
        expect(_fits_schema(reply.text), f"response_format: received {reply.text[:80]!r}")


def _fits_schema(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    whole = isinstance(found, dict) and set(found) == {"answer", "score"}
    return whole and found["answer"] in ("yes", "no") and found["score"] in range(10)


async def text_completions(s: Subject) -> None:
    body = {"model": (await s.body())["model"], "prompt": "The fee is", "max_tokens": 4, "temperature": 0}
    reply = await s.post("/v1/completions", body)
    if reply.status in (404, 405):
        raise Refused("no /v1/completions")
    expect(reply.status == 200 and isinstance(reply.body["choices"][0]["text"], str), f"{reply.status}: {str(reply.body)[:100]}")


async def a_prompt_beyond_the_context_is_a_400(s: Subject) -> None:
    reply = await s.ask("word " * 60_000)
    expect(reply.status in (400, 413), f"a prompt of 60,000 words: {reply.status} {str(reply.body)[:80]}")
    await s.still_answers()


async def an_answer_beyond_the_context_is_a_400(s: Subject) -> None:
    reply = await s.ask(max_tokens=50_000_000)
    expect(reply.status == 400, f"max_tokens 50,000,000: {reply.status}")
    await s.still_answers()


async def bad_requests_are_4xx(s: Subject) -> None:
    good = await s.body()
    bad = [b"{", [], {**good, "messages": []}, {**good, "temperature": -1}, {**good, "max_tokens": 0}, {**good, "top_p": 7}]
    for body in bad:
        reply = await s.post("/v1/chat/completions", body)
        expect(400 <= reply.status < 500, f"{str(body)[-60:]}: {reply.status}")
        expect(isinstance(reply.body, dict), f"{str(body)[-60:]}: an error that is not JSON")
    await s.still_answers()


async def an_unknown_model_is_refused(s: Subject) -> None:
    reply = await s.post("/v1/chat/completions", await s.body() | {"model": "no-such-model"})
    expect(400 <= reply.status < 500, f"model no-such-model: {reply.status}")


async def equal_request_ids_are_two_requests(s: Subject) -> None:
    headers = {"x-request-id": "the-same"}
    replies = await asyncio.gather(*(s.ask(question, headers=headers, max_tokens=8) for question in QUESTIONS[:2]))
    expect([reply.status for reply in replies] == [200, 200], f"two requests with one X-Request-Id: {[reply.status for reply in replies]}")
    alone = [(await s.answer(question, max_tokens=8)).text for question in QUESTIONS[:2]]
    expect([reply.text for reply in replies] == alone, "their answers are mixed up")


async def _left(s: Subject, *, stream: bool) -> None:
    """Requests whose clients go away free their places: seen in /metrics, else by how fast the next one is answered."""
    quiet = await _seconds(s)

    async def leave() -> None:
        body = await s.body(QUESTIONS[3], max_tokens=400, temperature=1.9, stream=stream)
        try:
            async with asyncio.timeout(0.4), s.session.post(f"{s.url}/v1/chat/completions", json=body) as reply:
                await reply.read()
        except TimeoutError:
            return

    await asyncio.gather(*(leave() for _ in range(LEAVING)))
    deadline = time.monotonic() + FREED_SECONDS
    running = await s.running()
    if running is None:
        await asyncio.sleep(0.5)
        after = await _seconds(s)
        expect(after < 3 * quiet + 0.3, f"after {LEAVING} clients left, an answer takes {after:.2f} s instead of {quiet:.2f}")
    while running:
        expect(time.monotonic() < deadline, f"{running:g} requests still run {FREED_SECONDS:g} s after their clients left")
        await asyncio.sleep(0.05)
        running = await s.running()


async def _seconds(s: Subject) -> float:
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        await s.answer(max_tokens=8)
        taken.append(time.perf_counter() - begun)
    return min(taken)


async def a_client_that_leaves_a_whole_answer_frees_its_place(s: Subject) -> None:
    await _left(s, stream=False)


async def a_client_that_leaves_a_stream_frees_its_place(s: Subject) -> None:
    await _left(s, stream=True)


async def a_flood_is_answered_or_429(s: Subject) -> None:
    replies = await asyncio.gather(*(s.ask(QUESTIONS[i % 4], max_tokens=8, temperature=1) for i in range(200)))
    odd = {reply.status for reply in replies} - {200, 429}
    expect(not odd, f"200 requests at once: also {sorted(odd)}")
    expect(all("retry-after" in reply.headers for reply in replies if reply.status == 429), "429 without Retry-After")
    await s.still_answers()


async def nobody_may_reload_it(s: Subject) -> None:
    for path in ("/reset", "/load_model", "/v1/load_lora_adapter"):
        reply = await s.post(path, {})
        expect(reply.status in (401, 403, 404, 405), f"POST {path}: {reply.status}")


async def metrics_are_there(s: Subject) -> None:
    reply = await s.get("/metrics")
    expect(reply.status == 200 and "# TYPE" in str(reply.body), f"/metrics: {reply.status}")
    expect(await s.running() is not None, "/metrics does not say how many requests run (requests_running)")


async def it_answers_to_the_end(s: Subject) -> None:
    await s.still_answers()


_CASES: tuple[Callable[[Subject], Awaitable[None]], ...] = (
    models_are_listed, counts_and_reasons_are_right, a_stream_is_the_same_answer, sampling_is_per_request, top_p_narrows,
    greedy_is_undisturbed_by_neighbours, stop_strings_never_show, several_choices, log_probabilities, a_seed_repeats, penalties_count,
    json_is_as_asked, text_completions, bad_requests_are_4xx, an_unknown_model_is_refused, metrics_are_there,
    a_client_that_leaves_a_whole_answer_frees_its_place, a_client_that_leaves_a_stream_frees_its_place, a_flood_is_answered_or_429,
    an_answer_beyond_the_context_is_a_400, equal_request_ids_are_two_requests, nobody_may_reload_it,
    a_prompt_beyond_the_context_is_a_400, it_answers_to_the_end,
)  # fmt: skip
CASES: dict[str, Callable[[Subject], Awaitable[None]]] = {case.__name__: case for case in _CASES}
