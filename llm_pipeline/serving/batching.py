"""Continuous batching of one model in this process: requests with their own sampling share each forward pass.

`ContinuousBatchingManager` schedules and caches; ours are the sampler (greedy rows cost an argmax, sampled rows add Gumbel
noise to their scores, whose argmax is a draw from the softmax: Gumbel 1954, Maddison et al. 2014), the limits, and the text.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
    ContinuousBatchingTopPLogitsWarper,
)
from transformers.generation.logits_process import LogitsProcessorList, TopPLogitsWarper

from llm_pipeline.serving.asgi import HttpError

PAGE = 32
"""Tokens in one page of the key-value cache."""


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
    """All tokens generated so far, with the log-probability of each; `finish` is set once: stop or length."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    finish: str | None


class Batcher:
    """One model on the CPU. `generate` may be called by any number of coroutines of one event loop."""

    def __init__(self, model: Path, limits: Limits = Limits(), dtype: str = "float32") -> None:
        self.limits = limits
        self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        self._control = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self.model = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        ).eval()
        config = self.model.config
        pages = _pages(config, limits.kv_megabytes, 2 if dtype == "bfloat16" else 4)
        self.context = int(min(config.max_position_embeddings, pages * PAGE))
        self.end_ids = _end_ids(self.model.generation_config.eos_token_id, self.tokenizer.eos_token_id)
        generation = GenerationConfig(do_sample=False, eos_token_id=sorted(self.end_ids) or -1, pad_token_id=self.tokenizer.pad_token_id)
        batching = ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=pages, max_batch_tokens=limits.batch_tokens, max_requests_per_batch=limits.batch_requests,
            per_request_processors=True, allow_block_sharing=False, use_async_batching=False, use_cuda_graph=False,
            return_logprobs=True, auto_switch_to_flash=False,
        )  # fmt: skip
        self._manager = self.model.init_continuous_batching(generation_config=generation, continuous_batching_config=batching)
        self._manager.logit_processor = _sampler()
        self._slots = asyncio.Semaphore(limits.in_flight)
        self.waiting = self.running = 0

    def start(self) -> None:
        self._manager.start()

    @property
    def alive(self) -> bool:
        return bool(self._manager.is_running()) and self._manager.background_thread_status.fatal_error is None

    def encode(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Prompt ids; a control token spelled out in a message is text there, never a turn."""
        safe = [{"role": m["role"], "content": self._defuse(m["content"])} for m in messages]
        return list(self.tokenizer.apply_chat_template(safe, add_generation_prompt=True, tokenize=True, return_dict=False))

    def _defuse(self, content: str) -> str:
        for token in self._control:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content

    def admit(self, prompt: int, wanted: int | None, default: int) -> int:
        """The number of tokens that may be generated; refuses what does not fit the context (400)."""
        longest = min(default, self.context - prompt) if wanted is None else wanted
        if longest < 1 or prompt + longest > self.context:
            asked = "" if wanted is None else f" + max_tokens {wanted}"
            raise HttpError(400, f"prompt of {prompt} tokens{asked} exceeds the context of {self.context}", code="context_length_exceeded")
        if not self.alive:
            raise HttpError(503, "the engine has stopped", retry_after=1)
        return longest

    async def generate(
        self, prompt: Sequence[int], longest: int, temperature: float = 0.0, top_p: float = 1.0, *, probe: bool = False
    ) -> AsyncGenerator[Tokens, None]:
        """Yield the tokens so far whenever there are more; closing the iterator cancels the request. A probe does not queue.

        A full queue is `HttpError` 429, before the first tokens.
        """
        if not probe and self._slots.locked() and self.waiting >= self.limits.queue:
            raise HttpError(429, f"{self.waiting} requests are waiting already", code="queue_full", retry_after=1)
        self.waiting += 1
        try:
            if not probe:
                await self._slots.acquire()
        finally:
            self.waiting -= 1
        identity, results, done = uuid.uuid4().hex, asyncio.Queue[Any](), False
        self.running += 1
        try:
            self._manager.register_result_handler(identity, results.put_nowait)
            sampling = {"temperature": temperature, "top_p": top_p} if temperature > 0 else {"temperature": 0.0}
            self._manager.add_request(list(prompt), request_id=identity, max_new_tokens=longest, streaming=True, **sampling)
            while not done:
                result = await self._next(results)
                if result.error is not None:
                    raise HttpError(503, f"the engine failed: {result.error}", retry_after=1)
                done = result.is_finished()
                ids = result.generated_tokens
                ended = done and bool(ids) and ids[-1] in self.end_ids
                yield Tokens(ids[:-1] if ended else ids, result.logprobs, ("stop" if ended else "length") if done else None)
        finally:
            self.running -= 1
            if not probe:
                self._slots.release()
            if not done:
                self._manager.cancel_request(identity)
                with self._manager.output_router._lock:
                    self._manager.output_router.result_handlers.pop(identity, None)

    async def _next(self, results: asyncio.Queue[Any]) -> Any:
        """The next result; a dead generation thread never sends one, so its life is checked every second."""
        while True:
            try:
                result = await asyncio.wait_for(results.get(), 1.0)
            except TimeoutError:
                if not self.alive:
                    raise HttpError(503, "the engine has stopped", retry_after=1) from None
                continue
            while not results.empty():  # each result holds all tokens so far: only the newest matters
                result = results.get_nowait()
            return result


class Detokenizer:
    """Tokens to text as they come: holds back an unfinished character and anything that may begin a stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._prefix = self._read = self._sent = 0
        self._text = ""
        self.stopped = False

    def feed(self, ids: Sequence[int], *, last: bool = False) -> str:
        """The text that may be shown now, given all ids so far; sets `stopped` when a stop string ended the answer."""
        before, after = self._decode(ids[self._prefix : self._read]), self._decode(ids[self._prefix :])
        if len(after) > len(before) and (last or not after.endswith("�")):
            self._text += after[len(before) :]
            self._prefix, self._read = self._read, len(ids)
        if self._sent == 0:  # the space after the role tag belongs to the chat format, not to the answer
            self._text = self._text.lstrip()
        found = [at for at in (self._text.find(stop, max(0, self._sent - len(stop))) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, end = True, min(found)
        else:
            end = len(self._text) if last else len(self._text) - self._held()
        piece, self._sent = self._text[self._sent : end], max(self._sent, end)
        return piece

    def _held(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        ends = [n for stop in self._stops for n in range(1, len(stop)) if self._text.endswith(stop[:n])]
        return max(ends, default=0)


def _pages(config: Any, megabytes: int, size: int) -> int:
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_page = 2 * config.num_hidden_layers * heads * width * size * PAGE
    # A few pages more than one longest request, however small the budget; a few thousand at most, however small the model.
    return int(min(max(megabytes * 2**20 // per_page, -(-config.max_position_embeddings // PAGE) + 2), 4096))


def _end_ids(*sources: int | list[int] | None) -> frozenset[int]:
    return frozenset(i for source in sources if source is not None for i in (source if isinstance(source, list) else [source]))


class _Temperature(ContinuousBatchingLogitsProcessor):
    """Divides a row by its temperature; 0 leaves the row as it is, for a greedy choice."""

    supported_kwargs: dict[str, type] = {"temperature": float}  # noqa: RUF012  (declared so by the base class)
    ignored_kwargs: tuple[str, ...] = ()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
        values = [request.state.logit_processor_kwargs.get("temperature", 0.0) for request in requests_with_new_token]
        return torch.tensor(values, dtype=torch.float32).view(dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        temperature = tensor_arg[: scores.size(0)].view(dtype=torch.float32)
        return scores / torch.where(temperature > 0, temperature, 1.0).unsqueeze(-1) if bool((temperature > 0).any()) else scores


class _TopP(ContinuousBatchingTopPLogitsWarper):
    """Nucleus sampling, skipped (it sorts the vocabulary) while no row of the batch asks for it."""

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return super().__call__(scores, tensor_arg) if bool((tensor_arg[: scores.size(0)].view(dtype=torch.float32) < 1).any()) else scores


class _Noise(_Temperature):
    """Gumbel noise on the rows that are sampled, so that the argmax which follows is a draw."""

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        sampled = tensor_arg[: scores.size(0)].view(dtype=torch.float32) > 0
        if not bool(sampled.any()):
            return scores
        noise = -torch.empty_like(scores[sampled]).exponential_().log()
        return scores.index_put((sampled,), scores[sampled] + noise)


def _sampler() -> ContinuousBatchingLogitsProcessorList:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([]), per_request_processors=False)
    processors.logits_processor = LogitsProcessorList([_Temperature(), _TopP(TopPLogitsWarper(top_p=1.0)), _Noise()])
    processors.tensors_required, processors.do_processing = 3, True
    processors._retrieve_processors_kwargs()
    return processors
