"""The engine worker: one model, one process, an OpenAI-compatible port on this machine. Knows nothing of releases or keys.

python -m llm_pipeline.serving.engine.worker --model DIR --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_pipeline.serving.gateway.asgi import (
    Disconnected,
    EventStream,
    HttpError,
    Receive,
    Scope,
    Send,
    lifespan,
    read_json,
    send_bytes,
    send_json,
    serve,
    until_disconnect,
)
from llm_pipeline.serving.gateway.protocol import DEFAULT_MAX_TOKENS, models
from llm_pipeline.serving.observability.logs import start_logging
from llm_pipeline.serving.supervision.processes import die_with

if TYPE_CHECKING:
    from llm_pipeline.serving.engine.generation import Model
    from llm_pipeline.serving.engine.protocol import EngineRequest
    from llm_pipeline.serving.engine.reply import Answer, Reply

log = logging.getLogger(__name__)
PROBE_SECONDS = 10.0
LONG_TEXT = 20_000
"""Characters whose tokens are counted in a thread."""


class Engine:
    """ASGI application: /v1/chat/completions, /v1/completions, /v1/models, /metrics, /health (a one-token generation with a deadline)."""

    def __init__(self, batcher: Model, name: str) -> None:
        from llm_pipeline.serving.engine.metrics import EngineMetrics

        self.batcher, self.name = batcher, name
        self.metrics = EngineMetrics(batcher)
        self._watching: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send, self._start, self._stop)
        try:
            await self._route(f"{scope['method']} {scope['path']}", receive, send)
        except HttpError as error:
            self.metrics.requests.labels(str(error.status)).inc()
            await send_json(send, error.status, error.body(), error.headers())
        except Disconnected:
            self.metrics.requests.labels("disconnected").inc()

    async def _route(self, route: str, receive: Receive, send: Send) -> None:
        if route == "POST /v1/chat/completions":
            await self._complete("chat", receive, send)
        elif route == "POST /v1/completions":
            await self._complete("text", receive, send)
        elif route == "GET /v1/models":
            await send_json(send, 200, models([self.name, *sorted(self.batcher.adapter_names)]))
        elif route == "GET /health":
            await self._health(send)
        elif route == "GET /metrics":
            await send_bytes(send, 200, self.metrics.text(), self.metrics.content_type)
        else:
            raise HttpError(404, f"no such path: {route}")

    async def _start(self) -> None:
        """Also answers a few prompts to itself, alone and together: the first ones are slow, and should be nobody's."""
        self.batcher.start()
        for together in (1, 4):
            await asyncio.gather(*(self._warm_up() for _ in range(together)))
        self._watching = asyncio.create_task(self._watch())

    async def _warm_up(self, prompt: int = 128, answer: int = 8) -> None:
        async with aclosing(self.batcher.generate([0] * min(prompt, self.batcher.context - answer), answer, probe=True)) as tokens:
            async for _ in tokens:
                pass

    async def _watch(self) -> None:
        """A worker whose generation thread has died can only be started again: it answers what it holds with 503, and ends."""
        while self.batcher.alive:
            await asyncio.sleep(1)
        log.error("the generation thread has ended; so does this process")
        await asyncio.sleep(2)
        os._exit(3)

    async def _stop(self) -> None:
        """Nothing to wait for: what was being answered is answered or cancelled by now, and the process ends with its threads."""
        if self._watching is not None:
            self._watching.cancel()

    async def _health(self, send: Send) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS), aclosing(self.batcher.generate([0], 1, probe=True)) as tokens:
                async for _ in tokens:
                    pass
        except TimeoutError:
            raise HttpError(503, f"no token within {PROBE_SECONDS:g} s") from None
        places = self.batcher.places
        await send_json(send, 200, {"status": "ok", "context": self.batcher.context, "running": places.running, "waiting": places.waiting})

    async def _complete(self, kind: Literal["chat", "text"], receive: Receive, send: Send) -> None:
        from llm_pipeline.serving.engine.protocol import parse_request

        request = parse_request(await read_json(receive), kind)
        adapter = self._adapter(request)
        prompts = await asyncio.to_thread(self._encode, request) if _long(request) else self._encode(request)
        longest = [self.batcher.admit(len(prompt), request.chat.max_tokens, DEFAULT_MAX_TOKENS) for prompt in prompts]
        await until_disconnect(receive, self._answer(request, list(zip(prompts, longest, strict=True)), adapter, send))

    def _adapter(self, request: EngineRequest) -> str | None:
        """OpenAI's `model` may name an adapter, as in vLLM; `adapter` says it outright."""
        known, model, adapter = self.batcher.adapter_names, request.chat.model, request.chat.adapter
        if (adapter is not None and adapter not in known) or (model not in known and model not in ("default", self.name)):
            names = ", ".join([self.name, *sorted(known)])
            raise HttpError(404, f"no model or adapter {adapter or model!r}; known: {names}", code="model_not_found")
        return adapter or (model if model in known else None)

    def _encode(self, request: EngineRequest) -> list[Sequence[int]]:
        return [self._ids(prompt) for prompt in request.prompts]

    def _ids(self, prompt: Any) -> Sequence[int]:
        if isinstance(prompt, str):
            return self.batcher.texts.encode_text(prompt)
        if isinstance(prompt[0], int):
            if not all(0 <= i < len(self.batcher.texts.tokenizer) for i in prompt):
                raise HttpError(400, f"prompt: expected token ids from 0 to {len(self.batcher.texts.tokenizer) - 1}")
            return list(prompt)
        return self.batcher.texts.encode(prompt)

    async def _answer(self, request: EngineRequest, prompts: list[tuple[Sequence[int], int]], adapter: str | None, send: Send) -> None:
        from llm_pipeline.serving.engine.reply import Answer, Reply

        begun, stream = time.perf_counter(), EventStream(send)
        reply = Reply(request.kind, adapter or self.name, lambda i: self.batcher.texts.decode([i]), logprobs=request.logprobs is not None)
        answers = [Answer(index) for index in range(len(prompts) * request.chat.n)]
        try:
            await self._generate_all(request, prompts, adapter, answers, reply, stream)
        except HttpError as error:
            if not stream.started:
                raise
            await stream.event(error.body())  # the status has gone out: an error can only be one more event
            return await stream.done()
        asked, made = sum(len(prompt) for prompt, _ in prompts), sum(len(answer.tokens.ids) for answer in answers)
        self.metrics.total.observe(time.perf_counter() - begun)
        self.metrics.tokens.labels("prompt").inc(asked)
        self.metrics.tokens.labels("completion").inc(made)
        self.metrics.requests.labels(answers[0].finish).inc()
        if not request.chat.stream:
            return await send_json(send, 200, reply.whole(answers, asked))
        if request.chat.include_usage:
            await stream.event(reply.usage_event(asked, made))
        await stream.done()

    async def _generate_all(
        self,
        request: EngineRequest,
        prompts: list[tuple[Sequence[int], int]],
        adapter: str | None,
        answers: list[Answer],
        reply: Reply,
        stream: EventStream,
    ) -> None:
        work = []
        for answer in answers:
            which, choice = divmod(answer.index, request.chat.n)
            prompt, longest = prompts[which]
            row = await self.batcher.row(request.sampling(choice), prompt, request.chat.response_format, adapter)
            work.append(self._generate(request, prompt, row, longest, answer, reply, stream))
        if len(work) == 1:
            return await work[0]
        try:
            async with asyncio.TaskGroup() as group:
                for one in work:
                    group.create_task(one)
        except* HttpError as errors:
            failed = next(error for error in errors.exceptions if isinstance(error, HttpError))
            raise failed from None

    async def _generate(
        self, request: EngineRequest, prompt: Sequence[int], row: Any, longest: int, answer: Answer, reply: Reply, stream: EventStream
    ) -> None:
        """One choice: its text, why it ended, and its tokens; streams the pieces on the way when that was asked for."""
        from llm_pipeline.serving.engine.generation import Detokenizer

        chat, begun = request.chat, time.perf_counter()
        text = Detokenizer(self.batcher.texts.decode, chat.stop, strip=request.kind == "chat")
        each = chat.stream or bool(chat.stop)
        async with aclosing(self.batcher.generate(prompt, longest, row, each=each)) as results:
            async for tokens in results:
                if not answer.tokens.ids and tokens.ids:
                    self.metrics.first.observe(time.perf_counter() - begun)
                piece, answer.tokens = text.feed(tokens.ids, last=tokens.finish is not None), tokens
                answer.text += piece
                answer.shown = len(tokens.ids) if tokens.finish and not text.stopped else text.covered()
                if piece and chat.stream:
                    await stream.event(reply.event(answer, piece))
                if text.stopped:
                    break
        answer.finish = "stop" if text.stopped else answer.tokens.finish or "length"
        if chat.stream:
            await stream.event(reply.event(answer, "", answer.finish))


def _long(request: EngineRequest) -> bool:
    prompts = [*request.prompts, *(message["content"] for message in request.chat.messages)]
    return sum(len(prompt) for prompt in prompts) > LONG_TEXT


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="The engine worker: one model behind an OpenAI-compatible port on 127.0.0.1.")
    found.add_argument("--model", type=Path, required=True, help="folder with config.json, safetensors and tokenizer")
    found.add_argument("--port", type=int, required=True)
    found.add_argument("--name", default="default", help="model name in replies")
    found.add_argument("--threads", type=int, default=1, help="CPU threads of a forward pass")
    found.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    found.add_argument("--quantization", choices=("none", "int8"), default="none", help="of the weights of linear layers; needs float32")
    found.add_argument("--kv-megabytes", type=int, default=256, help="memory of the key-value cache")
    found.add_argument("--in-flight", type=int, default=64)
    found.add_argument("--queue", type=int, default=256, help="requests that may wait; more are answered 429")
    found.add_argument("--adapter", type=_adapter, action="append", default=[], metavar="NAME=DIR", help="a LoRA adapter; may be repeated")
    found.add_argument("--parent", type=int, help="end when this process does")
    return found


def _adapter(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not (name and separator and folder):
        raise argparse.ArgumentTypeError(f"received {text!r}, expected NAME=DIR")
    return name, folder


def main() -> None:
    options = parser().parse_args()
    start_logging(logging.WARNING)
    die_with(options.parent)
    # Read by the OpenMP runtime when torch loads: idle threads must sleep, or a neighbour on the same cores starves.
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", OMP_NUM_THREADS=str(options.threads), TOKENIZERS_PARALLELISM="false")
    import torch

    from llm_pipeline.serving.engine.batching import Batcher, Limits

    torch.set_num_threads(options.threads)
    limits = Limits(in_flight=options.in_flight, queue=options.queue, kv_megabytes=options.kv_megabytes)
    adapters = {name: Path(folder) for name, folder in options.adapter}
    serve(Engine(Batcher(options.model, limits, options.dtype, adapters, options.quantization), options.name), options.port)
    os._exit(0)  # a generation thread that hangs must not keep the process


if __name__ == "__main__":
    main()
