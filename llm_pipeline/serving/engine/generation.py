"""What engines of ours share whichever library runs the model: sampling parameters, places, tokens so far, and their text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm_pipeline.serving.gateway.asgi import HttpError


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy. `logprobs` is None or how many alternatives are wanted beside each token."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | str | None = None
    logprobs: int | None = None

    @property
    def penalises(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)


@dataclass(frozen=True)
class Limits:
    """What bounds an engine's memory and latency."""

    in_flight: int = 64
    queue: int = 256
    batch_requests: int = 32
    batch_tokens: int = 512
    kv_megabytes: int = 256


@dataclass(frozen=True)
class Tokens:
    """All tokens generated so far, and what was noted of each; `finish` is set once: stop or length."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    top: Sequence[Sequence[tuple[int, float]]]
    finish: str | None


class Model(Protocol):
    """What runs a model for the worker; `batching.Batcher` and `openvino.OpenVino` are two."""

    texts: Texts
    places: Places
    context: int
    pages: int

    @property
    def pages_used(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def adapter_names(self) -> frozenset[str]: ...
    def start(self) -> None: ...
    def admit(self, prompt: int, wanted: int | None, default: int) -> int: ...
    async def row(self, sampling: Sampling, prompt: Sequence[int], form: Mapping[str, Any] | None, adapter: str | None) -> Any:
        """What `generate` needs to know of a request; refuses what this engine does not do."""
        ...

    def generate(
        self, prompt: Sequence[int], longest: int, row: Any = None, *, each: bool = True, probe: bool = False
    ) -> AsyncGenerator[Tokens, None]:
        """Yield the tokens so far whenever there are more (or, not `each`, once); closing the iterator cancels the request.

        A full queue is `HttpError` 429, before the first tokens. A probe does not queue.
        """
        ...


class Texts:
    """A model's tokenizer as engines use it."""

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        self._control = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Prompt ids; a control token spelled out in a message is text there, never a turn."""
        safe = [{"role": m["role"], "content": self._defuse(m["content"])} for m in messages]
        return list(self.tokenizer.apply_chat_template(safe, add_generation_prompt=True, tokenize=True, return_dict=False))

    def encode_text(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(self._defuse(text)))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _defuse(self, content: str) -> str:
        for token in self._control:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content


class Places:
    """So many requests at once, so many more that wait; one more is refused."""

    def __init__(self, limits: Limits) -> None:
        self._slots, self._queue = asyncio.Semaphore(limits.in_flight), limits.queue
        self.waiting = self.running = 0

    @asynccontextmanager
    async def one(self, *, probe: bool) -> AsyncIterator[None]:
        """A probe does not queue; `HttpError` 429 when too many wait already."""
        if not probe and self._slots.locked() and self.waiting >= self._queue:
            raise HttpError(429, f"{self.waiting} requests are waiting already", code="queue_full", retry_after=1)
        self.waiting += 1
        try:
            if not probe:
                await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            if not probe:
                self._slots.release()


def fitting(prompt: int, wanted: int | None, default: int, context: int) -> int:
    """The number of tokens that may be generated; refuses what does not fit the context (400)."""
    longest = min(default, context - prompt) if wanted is None else wanted
    if longest < 1 or prompt + longest > context:
        asked = "" if wanted is None else f" + max_tokens {wanted}"
        raise HttpError(400, f"prompt of {prompt} tokens{asked} exceeds the context of {context}", code="context_length_exceeded")
    if prompt < 1:
        raise HttpError(400, "the prompt is empty")
    return longest


class Detokenizer:
    """Tokens to text as they come: holds back an unfinished character and anything that may begin a stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), *, strip: bool = True) -> None:
        self._decode, self._stops, self._strip = decode, stops, strip
        self._prefix = self._read = self._sent = 0
        self._text = ""
        self._ends: list[tuple[int, int]] = []
        """Length of the text after each number of tokens that made it longer."""
        self.stopped = False

    def feed(self, ids: Sequence[int], *, last: bool = False) -> str:
        """The text that may be shown now, given all ids so far; sets `stopped` when a stop string ended the answer."""
        before, after = self._decode(ids[self._prefix : self._read]), self._decode(ids[self._prefix :])
        if len(after) > len(before) and (last or not after.endswith("�")):
            self._text += after[len(before) :]
            self._prefix, self._read = self._read, len(ids)
        if self._sent == 0 and self._strip:  # the space after the role tag belongs to the chat format, not to the answer
            self._text = self._text.lstrip()
        self._ends.append((len(self._text), self._read))
        found = [at for at in (self._text.find(stop, max(0, self._sent - len(stop))) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, end = True, min(found)
        else:
            end = len(self._text) if last else len(self._text) - self._held()
        piece, self._sent = self._text[self._sent : end], max(self._sent, end)
        return piece

    def covered(self) -> int:
        """How many tokens the text shown so far is made of; at the end also the one that a stop string cuts in two."""
        if self._sent == 0:
            return 0
        if self.stopped:
            return next(tokens for length, tokens in self._ends if length >= self._sent)
        return max((tokens for length, tokens in self._ends if length <= self._sent), default=0)

    def _held(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        ends = [n for stop in self._stops for n in range(1, len(stop)) if self._text.endswith(stop[:n])]
        return max(ends, default=0)
