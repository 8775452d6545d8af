"""A model behind an OpenAI-compatible address: chat answers with their times, and likelihoods where the server really gives them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import aiohttp

from llm_pipeline.errors import EndpointError
from llm_pipeline.evaluation.generate import Asked, Completion, Likelihood, Progress

T = TypeVar("T")
U = TypeVar("U")
_ECHO = "The quick brown fox"
_AGAIN = (429, 500, 502, 503, 504)
_ATTEMPTS = 4


class Endpoint:
    """`url` is that of the server, with or without /v1; `model` defaults to the first that it lists.

    Chat endpoints score nothing. Likelihoods come from /v1/completions with `echo` and `logprobs`; a server that ignores `echo` would
    silently score chance, so it is asked once for a text whose echo is known. Conversations are then plain text, `user: ...` lines
    with `assistant:` last, since the chat template stays with the server.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None, *, concurrency: int = 8, timeout: float = 120.0) -> None:
        base = url.rstrip("/")
        for tail in ("/chat/completions", "/completions", "/v1"):
            base = base.removesuffix(tail)
        self.base, self._model, self._key = f"{base}/v1", model, key
        self.concurrency, self.timeout = concurrency, timeout

    @cached_property
    def model(self) -> str:
        if self._model:
            return self._model
        listed = self._all([("models", None)], self._request, 1)[0].get("data") or []
        if not listed:
            raise EndpointError(f"{self.base}/models lists no model; name one with --model-name")
        return str(listed[0]["id"])

    @cached_property
    def no_likelihoods(self) -> str | None:
        """Why the server gives no likelihoods of a given text, None when it does."""
        try:
            choice = self._all([("completions", self._scoring(_ECHO))], self._request, 1)[0]["choices"][0]
        except EndpointError as error:
            return f"{self.base}/completions does not score texts ({error})"
        found = choice.get("logprobs") or {}
        if not str(choice.get("text", "")).startswith(_ECHO):
            return f"{self.base}/completions ignores `echo`: it would score what it makes up, not what it is given"
        if len([value for value in found.get("token_logprobs") or () if value is not None]) < 2 or not found.get("text_offset"):
            return f"{self.base}/completions gives no `logprobs` of the echoed text"
        return None

    def cannot(self, need: str) -> str | None:
        if need == "answer":
            return None
        if need == "continuation":
            return f"{self.base}: a plain text is continued by local models only"
        return self.no_likelihoods

    def answer(
        self, conversations: Sequence[Asked], *, max_new_tokens: int = 40, progress: Progress | None = None, batch_size: int | None = None
    ) -> list[Completion]:
        """One greedy answer per conversation; at most `batch_size` requests are open at once."""
        model = self.model
        bodies = [
            {"model": model, "messages": [dict(m) for m in asked], "max_tokens": max_new_tokens, "temperature": 0}
            for asked in conversations
            if not isinstance(asked, str)
        ]
        return self._all(bodies, self._chat, batch_size or self.concurrency, progress)

    def likelihoods(self, conversations: Sequence[Asked], references: Sequence[str]) -> list[Likelihood]:
        pairs = [(_plain(asked), reference) for asked, reference in zip(conversations, references, strict=True)]
        return [likelihood for likelihood, _ in self.scores([(prompt, _spaced(prompt, reference)) for prompt, reference in pairs])]

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Likelihood, bool]]:
        """Likelihood of each continuation after its plain text, and whether the model would have said it."""
        return self._all(pairs, self._score, self.concurrency)

    def choices(self, conversations: Sequence[Asked], choices: Sequence[Sequence[str]]) -> list[tuple[Likelihood, ...]]:
        flat = [(asked, choice) for asked, listed in zip(conversations, choices, strict=True) for choice in listed]
        found = self.likelihoods([asked for asked, _ in flat], [choice for _, choice in flat])
        ends = [0]
        for listed in choices:
            ends.append(ends[-1] + len(listed))
        return [tuple(found[start:end]) for start, end in pairwise(ends)]

    async def _chat(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> Completion:
        started = time.perf_counter()
        reply = await self._request(session, ("chat/completions", body))
        seconds = round(time.perf_counter() - started, 6)
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text = str(choice["message"].get("content") or "").strip()
        tokens = int(usage.get("completion_tokens") or len(text.split()))
        return Completion(text, choice.get("finish_reason") == "stop", tokens, int(usage.get("prompt_tokens") or 0), seconds)

    async def _score(self, session: aiohttp.ClientSession, pair: tuple[str, str]) -> tuple[Likelihood, bool]:
        prompt, continuation = pair
        reply = await self._request(session, ("completions", self._scoring(prompt + continuation)))
        found, end = reply["choices"][0]["logprobs"], len(prompt) + len(continuation)
        best = found.get("top_logprobs") or [None] * len(found["token_logprobs"])
        tokens = [
            (value, bool(top) and value >= max(top.values()))
            for value, offset, top in zip(found["token_logprobs"], found["text_offset"], best, strict=True)
            if value is not None and len(prompt) <= offset < end
        ]
        return Likelihood(round(-sum(value for value, _ in tokens), 5), len(tokens)), all(greedy for _, greedy in tokens)

    def _scoring(self, text: str) -> dict[str, Any]:
        return {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}

    async def _request(self, session: aiohttp.ClientSession, call: tuple[str, Mapping[str, Any] | None]) -> dict[str, Any]:
        """The JSON reply; what may pass by waiting (429, 5xx, a broken connection) is tried again."""
        path, body = call
        url, problem = f"{self.base}/{path}", ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.25 * 2**attempt)
            try:
                async with session.request("GET" if body is None else "POST", url, json=body) as reply:
                    if reply.status == 200:
                        return dict(await reply.json(content_type=None))
                    problem = f"status {reply.status}: {(await reply.text())[:300]}"
                    if reply.status not in _AGAIN:
                        break
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
        raise EndpointError(f"{url}: {problem}")

    def _all(
        self,
        items: Sequence[T],
        one: Callable[[aiohttp.ClientSession, T], Awaitable[U]],
        at_once: int,
        progress: Progress | None = None,
    ) -> list[U]:
        async def run() -> list[U]:
            gate, done = asyncio.Semaphore(at_once), 0
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}

            async def guarded(session: aiohttp.ClientSession, item: T) -> U:
                nonlocal done
                async with gate:
                    result = await one(session, item)
                done += 1
                if progress:
                    progress(done, len(items))
                return result

            timeout = aiohttp.ClientTimeout(total=self.timeout)
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session, asyncio.TaskGroup() as group:
                tasks = [group.create_task(guarded(session, item)) for item in items]
            return [task.result() for task in tasks]

        try:
            return asyncio.run(run())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None


def _plain(asked: Asked) -> str:
    return asked if isinstance(asked, str) else "".join(f"{m['role']}: {m['content']}\n" for m in asked) + "assistant:"


def _spaced(prompt: str, continuation: str) -> str:
    return continuation if not prompt or prompt[-1].isspace() else f" {continuation}"
