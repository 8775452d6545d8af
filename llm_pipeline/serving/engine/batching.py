"""Continuous batching of one model in this process: requests with their own sampling share each forward pass.

`ContinuousBatchingManager` schedules and caches; ours are the sampler (sampling.py), the adapters, the limits, and the text.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.engine.adapters import Adapters
from llm_pipeline.serving.engine.generation import Limits as Limits
from llm_pipeline.serving.engine.generation import Places, Sampling, Texts, Tokens, fitting
from llm_pipeline.serving.engine.int8 import quantize_weights
from llm_pipeline.serving.engine.sampling import Matcher, Row, sampler
from llm_pipeline.serving.gateway.asgi import HttpError

if TYPE_CHECKING:
    from llm_pipeline.serving.engine.grammar import Grammars

log = logging.getLogger(__name__)

PAGE = 32
"""Tokens in one page of the key-value cache."""
SPARE_PAGES = 2
"""Pages more than one longest request, so that it can always go on."""
NOTED = Sampling(logprobs=0)
"""Greedy, with the log-probability of each token."""


class Batcher:
    """One model on the CPU. `generate` may be called by any number of coroutines of one event loop."""

    def __init__(
        self,
        model: Path,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        dtype: str = "float32",
        adapters: Mapping[str, Path] | None = None,
        quantization: str = "none",
    ) -> None:
        self.limits = limits
        self.texts = Texts(model)
        self.model = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        ).eval()
        if quantization == "int8":
            quantize_weights(self.model)
        config = self.model.config
        self.pages = _pages(config, limits, 2 if dtype == "bfloat16" else 4)
        self.context = int(min(config.max_position_embeddings, (self.pages - SPARE_PAGES) * PAGE))
        if self.context < config.max_position_embeddings:
            log.warning(
                "kv_megabytes %d hold %d tokens of the model's %d", limits.kv_megabytes, self.context, config.max_position_embeddings
            )
        tokenizer = self.texts.tokenizer
        self.end_ids = _end_ids(self.model.generation_config.eos_token_id, tokenizer.eos_token_id)
        generation = GenerationConfig(
            do_sample=False, eos_token_id=sorted(self.end_ids) or -1, pad_token_id=self.texts.tokenizer.pad_token_id
        )
        # Blocks are not shared: the same prefix has other keys and values under another adapter.
        batching = ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=self.pages, max_batch_tokens=limits.batch_tokens, max_requests_per_batch=limits.batch_requests,
            per_request_processors=True, allow_block_sharing=False, use_async_batching=False, use_cuda_graph=False,
            return_logprobs=False, auto_switch_to_flash=False,
        )  # fmt: skip
        self._manager = self.model.init_continuous_batching(generation_config=generation, continuous_batching_config=batching)
        self._manager.logit_processor = sampler()
        self.adapters = Adapters(self.model, adapters or {})
        if adapters:
            self.model.register_forward_pre_hook(self._mark_adapters, with_kwargs=True)
        self.places = Places(limits)
        self._grammars: Grammars | None = None

    def start(self) -> None:
        self._manager.start()

    def stop(self) -> None:
        """End the generation thread after the step that it is in."""
        self._manager.stop(block=True, hard_stop=True)

    @property
    def adapter_names(self) -> frozenset[str]:
        return self.adapters.names

    @property
    def alive(self) -> bool:
        return bool(self._manager.is_running()) and self._manager.background_thread_status.fatal_error is None

    @property
    def pages_used(self) -> int:
        processor = self._manager.batch_processor
        return 0 if processor is None else round(self.pages * (1 - processor.cache.compute_free_capacity()))

    def _mark_adapters(self, *_: Any) -> None:
        requests = self._manager.batch_processor.inputs_and_outputs.requests_in_batch
        self.adapters.batch([(request.state.logit_processor_kwargs["row"].adapter, request.query_length) for request in requests])

    def admit(self, prompt: int, wanted: int | None, default: int) -> int:
        """The number of tokens that may be generated; refuses what does not fit the context (400)."""
        longest = fitting(prompt, wanted, default, self.context)
        if not self.alive:
            raise HttpError(503, "the engine has stopped", retry_after=1)
        return longest

    async def row(self, sampling: Sampling, prompt: Sequence[int], form: Mapping[str, Any] | None, adapter: str | None) -> Row:
        """A request's state; its grammar is compiled on a thread, since a large schema takes a while."""
        return Row(sampling, prompt, None if form is None else await asyncio.to_thread(self._matcher, form), adapter)

    def _matcher(self, form: Mapping[str, Any]) -> Matcher:
        from llm_pipeline.serving.engine.grammar import Grammars

        if self._grammars is None:
            self._grammars = Grammars(self.texts.tokenizer, self.model.config.vocab_size, sorted(self.end_ids))
        found: Matcher = self._grammars.matcher(form)
        return found

    async def generate(
        self, prompt: Sequence[int], longest: int, row: Row | None = None, *, each: bool = True, probe: bool = False
    ) -> AsyncGenerator[Tokens, None]:
        """Yield the tokens so far whenever there are more (or, not `each`, once); closing the iterator cancels the request.

        A full queue is `HttpError` 429, before the first tokens. A probe does not queue.
        """
        row = row or Row(NOTED)
        async with self.places.one(probe=probe):
            identity, results, done = uuid.uuid4().hex, asyncio.Queue[Any](), False
            try:
                self._manager.register_result_handler(identity, results.put_nowait)
                each = each or row.matcher is not None  # a grammar may be complete before the model says so
                self._manager.add_request(list(prompt), request_id=identity, max_new_tokens=longest, streaming=each, row=row)
                while not done:
                    result = await self._next(results)
                    if result.error is not None or row.error:
                        raise HttpError(503, f"the engine failed: {result.error or row.error}", retry_after=1)
                    tokens = self._tokens(result, row)
                    done = result.is_finished()
                    yield tokens
                    if tokens.finish:
                        break
            finally:
                if not done:
                    self._manager.cancel_request(identity)
                    with self._manager.output_router._lock:
                        self._manager.output_router.result_handlers.pop(identity, None)

    def _tokens(self, result: Any, row: Row) -> Tokens:
        ids, finished = result.generated_tokens, result.is_finished()
        if complete := row.ended is not None and len(ids) >= row.ended:
            ids = ids[: row.ended]
        if ended := bool(ids) and ids[-1] in self.end_ids:
            ids = ids[:-1]
        finish = "stop" if ended or complete else "length" if finished else None
        return Tokens(ids, row.logprobs[: len(ids)], row.top[: len(ids)], finish)

    async def _next(self, results: asyncio.Queue[Any]) -> Any:
        """The next result; a dead generation thread never sends one, so its life is checked every second."""
        while True:
            try:
                async with asyncio.timeout(1.0):
                    result = await results.get()
            except TimeoutError:
                if not self.alive:
                    raise HttpError(503, "the engine has stopped", retry_after=1) from None
                continue
            while not results.empty():  # each result holds all tokens so far: only the newest matters
                result = results.get_nowait()
            return result


def _pages(config: Any, limits: Limits, size: int) -> int:
    """Pages that the budget holds, each with its part of the attention mask (batch tokens x cached tokens)."""
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_page = (2 * config.num_hidden_layers * heads * width + limits.batch_tokens) * size * PAGE
    pages = limits.kv_megabytes * 2**20 // per_page
    if pages <= SPARE_PAGES:
        raise ConfigError(
            f"kv_megabytes: received {limits.kv_megabytes}, expected at least {(SPARE_PAGES + 1) * per_page // 2**20 + 1} for this model"
        )
    return int(min(pages, 4096))


def _end_ids(*sources: int | list[int] | None) -> frozenset[int]:
    return frozenset(i for source in sources if source is not None for i in (source if isinstance(source, list) else [source]))
