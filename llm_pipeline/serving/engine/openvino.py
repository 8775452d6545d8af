"""Our worker over OpenVINO GenAI's continuous batching (CPU), run by the Python of an environment of its own.

python -m llm_pipeline.serving.engine.openvino --model DIR --port 9000 --exports DIR

That environment has openvino-genai, openvino-tokenizers, optimum-intel[openvino], xgrammar and what the worker itself imports;
README.md lists it.
The model is exported to OpenVINO's format once, into the folder of exports.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai  # type: ignore[import-not-found]

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.engine.generation import Limits, Places, Sampling, Texts, Tokens, fitting
from llm_pipeline.serving.engine.openvino_forms import grammar
from llm_pipeline.serving.engine.worker import Engine
from llm_pipeline.serving.gateway.asgi import HttpError, serve
from llm_pipeline.serving.observability.logs import start_logging
from llm_pipeline.serving.supervision.processes import die_with

log = logging.getLogger(__name__)
PAGE = 32
"""Tokens in one block of the key-value cache on a CPU."""
SPARE_PAGES = 2
RUNNING = openvino_genai.GenerationStatus.RUNNING
STOPPED = openvino_genai.GenerationFinishReason.STOP


@dataclass
class _Live:
    """A request under way; the generation thread adds to it, a coroutine waits for more."""

    loop: asyncio.AbstractEventLoop
    form: bool = False
    """Whether the answer is held to a grammar."""
    handle: Any = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: str | None = None
    error: HttpError | None = None
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def read(self) -> None:
        if self.handle.can_read():
            for part in self.handle.read().values():
                self.ids += part.generated_ids
                self.logprobs += part.generated_log_probs
                self.finish = "stop" if part.finish_reason == STOPPED else self.finish
        if self.handle.get_status() != RUNNING:
            self.finish = self.finish or "length"
        self.loop.call_soon_threadsafe(self.more.set)

    def give_up(self) -> None:
        """A grammar that the engine does not read fails the step of the whole batch: whoever asked for one that is new is to blame."""
        blamed = self.form and not self.ids
        refusal = HttpError(400, "response_format: the engine does not read this schema's grammar", code="unsupported_schema")
        self.error = refusal if blamed else HttpError(503, "the engine failed", retry_after=1)
        self.handle.cancel()
        self.loop.call_soon_threadsafe(self.more.set)


class OpenVino:
    """One exported model on the CPU, in float32; `generate` may be called by any number of coroutines of one event loop."""

    adapter_names: frozenset[str] = frozenset()

    def __init__(self, model: Path, exported: Path, limits: Limits, threads: int) -> None:
        config = json.loads((model / "config.json").read_text())
        self.texts, self.places = Texts(model), Places(limits)
        self.pages = _pages(config, limits)
        self.context = int(min(config["max_position_embeddings"], (self.pages - SPARE_PAGES) * PAGE))
        self._end_ids = _end_ids(model, self.texts.tokenizer.eos_token_id)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks, scheduler.max_num_seqs = self.pages, limits.batch_requests
        scheduler.max_num_batched_tokens, scheduler.enable_prefix_caching = limits.batch_tokens, False
        exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": threads}
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(exported), scheduler, "CPU", exact)
        self._numbers, self._live = itertools.count(), dict[int, _Live]()
        self._wake, self._thread = threading.Event(), threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def pages_used(self) -> int:
        return round(self.pages * self._pipeline.get_metrics().cache_usage / 100)

    def admit(self, prompt: int, wanted: int | None, default: int) -> int:
        longest = fitting(prompt, wanted, default, self.context)
        if not self.alive:
            raise HttpError(503, "the engine has stopped", retry_after=1)
        return longest

    async def row(self, sampling: Sampling, prompt: Sequence[int], form: Mapping[str, Any] | None, adapter: str | None) -> Any:
        if sampling.logprobs:
            raise HttpError(400, "top_logprobs: this engine gives the chosen token's log-probability only", code="unsupported_field")
        config = openvino_genai.GenerationConfig()
        if form is not None:
            written = await asyncio.to_thread(grammar, form)
            config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=written)
        config.stop_token_ids = set(self._end_ids)
        config.logprobs = 0 if sampling.logprobs is None else 1
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p, config.min_p = sampling.temperature, sampling.top_p, sampling.min_p
            config.top_k = sampling.top_k or len(self.texts.tokenizer)
            config.rng_seed = random.Random(sampling.seed).getrandbits(31)
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
            setattr(config, name, getattr(sampling, name))
        return config

    async def generate(
        self, prompt: Sequence[int], longest: int, row: Any = None, *, each: bool = True, probe: bool = False
    ) -> AsyncGenerator[Tokens, None]:
        config = row or await self.row(Sampling(logprobs=0), prompt, None, None)
        config.max_new_tokens = longest
        async with self.places.one(probe=probe):
            number, live = next(self._numbers), _Live(asyncio.get_running_loop(), config.structured_output_config is not None)
            self._live[number] = live
            try:
                live.handle = self._add(number, prompt, config)
                self._wake.set()
                while True:
                    await self._more(live)
                    if live.error is not None:
                        raise live.error
                    tokens = self._tokens(live)
                    if each or tokens.finish:
                        yield tokens
                    if tokens.finish:
                        break
            finally:
                del self._live[number]
                if live.handle is not None and live.finish is None:
                    live.handle.cancel()

    def _add(self, number: int, prompt: Sequence[int], config: Any) -> Any:
        try:
            return self._pipeline.add_request(number, openvino.Tensor(np.array([prompt], np.int64)), config)
        except RuntimeError as error:
            raise HttpError(400, f"the engine refuses the request: {str(error).strip().splitlines()[-1][:300]}") from error

    async def _more(self, live: _Live) -> None:
        """Wait for more of an answer; a dead generation thread never makes any, so its life is checked every second."""
        while not live.more.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await live.more.wait()
            except TimeoutError:
                if not self.alive:
                    raise HttpError(503, "the engine has stopped", retry_after=1) from None
        live.more.clear()

    def _tokens(self, live: _Live) -> Tokens:
        finish, ids = live.finish, list(live.ids)
        while ids and ids[-1] in self._end_ids:
            ids.pop()
        return Tokens(ids, live.logprobs[: len(ids)], (), finish)

    def _run(self) -> None:
        try:
            while True:
                if not self._pipeline.has_non_finished_requests():
                    self._wake.wait()
                    self._wake.clear()
                    continue
                self._step()
        except Exception:
            log.exception("generation failed")

    def _step(self) -> None:
        failed = False
        try:
            self._pipeline.step()
        except RuntimeError:
            failed = any(live.form and not live.ids for live in list(self._live.values()))
            if not failed:
                raise
            log.exception("a step failed, probably for a grammar: its requests are given up")
        for live in list(self._live.values()):
            if live.handle is not None:
                live.give_up() if failed else live.read()


def _pages(config: Mapping[str, Any], limits: Limits) -> int:
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    per_page = 2 * config["num_hidden_layers"] * heads * width * 4 * PAGE
    pages = limits.kv_megabytes * 2**20 // per_page
    if pages <= SPARE_PAGES:
        least = (SPARE_PAGES + 1) * per_page // 2**20 + 1
        raise ConfigError(f"kv_megabytes: received {limits.kv_megabytes}, expected at least {least} for this model")
    return int(pages)


def _end_ids(model: Path, own: int | None) -> frozenset[int]:
    path = model / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    return frozenset(i for i in [own, *(found if isinstance(found, list) else [found])] if i is not None)


def export(model: Path, exports: Path) -> Path:
    """The model in OpenVINO's format, made once for each content."""
    files = sorted(path for path in model.iterdir() if path.suffix in (".json", ".jinja", ".safetensors"))
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        digest.update(path.name.encode() + b"\0" + hashlib.blake2b(path.read_bytes()).digest())
    made = exports / digest.hexdigest()
    if not made.exists():
        exports.mkdir(parents=True, exist_ok=True)
        program = Path(sys.executable).with_name("optimum-cli")
        with tempfile.TemporaryDirectory(dir=exports) as work:
            options = ["--task", "text-generation-with-past", "--weight-format", "fp32"]
            subprocess.run([program, "export", "openvino", "--model", model, *options, f"{work}/model"], check=True)
            Path(work, "model").rename(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Our worker over OpenVINO GenAI.")
    parser.add_argument("--model", type=Path, required=True, help="folder with config.json, safetensors and tokenizer")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="default", help="model name in replies")
    parser.add_argument("--exports", type=Path, required=True, help="folder of models in OpenVINO's format")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kv-megabytes", type=int, default=256)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--queue", type=int, default=256)
    parser.add_argument("--parent", type=int, help="end when this process does")
    options = parser.parse_args()
    start_logging(logging.WARNING)
    die_with(options.parent)
    limits = Limits(in_flight=options.in_flight, queue=options.queue, kv_megabytes=options.kv_megabytes)
    model = OpenVino(options.model, export(options.model, options.exports), limits, options.threads)
    serve(Engine(model, options.name), options.port)
    os._exit(0)


if __name__ == "__main__":
    main()
