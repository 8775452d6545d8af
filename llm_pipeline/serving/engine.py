"""The engine worker: one model, one process, an OpenAI-compatible port on this machine. Knows nothing of releases or keys.

python -m llm_pipeline.serving.engine --model DIR --port 9000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_pipeline.serving.asgi import (
    Disconnected,
    EventStream,
    HttpError,
    Receive,
    Scope,
    Send,
    lifespan,
    read_json,
    send_json,
    serve,
    until_disconnect,
)
from llm_pipeline.serving.processes import die_with
from llm_pipeline.serving.protocol import DEFAULT_MAX_TOKENS, ChatRequest, chunk, completion, models, parse_chat, text_chunk, usage_chunk

if TYPE_CHECKING:
    from llm_pipeline.serving.batching import Batcher, Tokens

PROBE_SECONDS = 10.0


class Engine:
    """ASGI application: /v1/chat/completions, /v1/models and /health (a one-token generation with a deadline)."""

    def __init__(self, batcher: Batcher, name: str) -> None:
        self.batcher, self.name = batcher, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await lifespan(receive, send, self._start, self._stop)
        try:
            await self._route(f"{scope['method']} {scope['path']}", receive, send)
        except HttpError as error:
            await send_json(send, error.status, error.body(), error.headers())
        except Disconnected:
            return

    async def _route(self, route: str, receive: Receive, send: Send) -> None:
        if route == "POST /v1/chat/completions":
            request = parse_chat(await read_json(receive))
            prompt = (
                await asyncio.to_thread(self.batcher.encode, request.messages) if _long(request) else self.batcher.encode(request.messages)
            )
            longest = self.batcher.admit(len(prompt), request.max_tokens, DEFAULT_MAX_TOKENS)
            await until_disconnect(receive, self._chat(request, prompt, longest, send))
        elif route == "GET /v1/models":
            await send_json(send, 200, models([self.name]))
        elif route == "GET /health":
            await self._health(send)
        else:
            raise HttpError(404, f"no such path: {route}")

    async def _start(self) -> None:
        """Also answers a few prompts to itself, alone and together: the first ones are slow, and should be nobody's."""
        self.batcher.start()
        for together in (1, 4):
            await asyncio.gather(*(self._warm_up() for _ in range(together)))

    async def _warm_up(self, prompt: int = 128, answer: int = 8) -> None:
        async with aclosing(self.batcher.generate([0] * min(prompt, self.batcher.context - answer), answer, probe=True)) as tokens:
            async for _ in tokens:
                pass

    async def _stop(self) -> None:
        """Nothing: what was being answered is answered or cancelled by now, and the process ends with its threads."""

    async def _health(self, send: Send) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS), aclosing(self.batcher.generate([0], 1, probe=True)) as tokens:
                async for _ in tokens:
                    pass
        except TimeoutError:
            raise HttpError(503, f"no token within {PROBE_SECONDS:g} s") from None
        await send_json(
            send, 200, {"status": "ok", "context": self.batcher.context, "running": self.batcher.running, "waiting": self.batcher.waiting}
        )

    async def _chat(self, request: ChatRequest, prompt: list[int], longest: int, send: Send) -> None:
        identity, stream = f"chatcmpl-{uuid.uuid4().hex}", EventStream(send)
        try:
            text, finish, tokens = await self._generate(request, prompt, longest, identity, stream)
        except HttpError as error:
            if not stream.started:
                raise
            await stream.event(error.body())  # the status has gone out: an error can only be one more event
            return await stream.done()
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens.ids)}
        detail = self._logprobs(tokens) if request.logprobs else None
        if not request.stream:
            return await send_json(send, 200, completion(identity, self.name, text, finish, usage, logprobs=detail))
        await stream.event(chunk(identity, self.name, {}, finish, logprobs=detail))
        if request.include_usage:
            await stream.event(usage_chunk(identity, self.name, usage))
        await stream.done()

    async def _generate(
        self, request: ChatRequest, prompt: list[int], longest: int, identity: str, stream: EventStream
    ) -> tuple[str, str, Tokens]:
        """The whole text, why it ended, and its tokens; streams the pieces on the way when that was asked for."""
        from llm_pipeline.serving.batching import Detokenizer

        text = Detokenizer(lambda ids: self.batcher.tokenizer.decode(ids, skip_special_tokens=True), request.stop)
        pieces: list[str] = []
        async with aclosing(self.batcher.generate(prompt, longest, request.temperature, request.top_p)) as results:
            async for tokens in results:
                piece = text.feed(tokens.ids, last=tokens.finish is not None)
                if piece:
                    pieces.append(piece)
                    if request.stream:
                        await stream.event(text_chunk(identity, self.name, piece, first=not stream.started))
                if text.stopped:
                    break
        return "".join(pieces), "stop" if text.stopped else tokens.finish or "length", tokens

    def _logprobs(self, generated: Tokens) -> dict[str, Any]:
        """OpenAI's shape; `token_id` besides, since a byte-level token need not be text of its own."""
        ids, values = generated.ids, generated.logprobs
        tokens = self.batcher.tokenizer.convert_ids_to_tokens(list(ids))
        entries = [
            {"token": token, "token_id": i, "logprob": value, "bytes": None, "top_logprobs": []}
            for i, token, value in zip(ids, tokens, values[: len(ids)], strict=True)
        ]
        return {"content": entries, "refusal": None}


def _long(request: ChatRequest) -> bool:
    return sum(len(message["content"]) for message in request.messages) > 20_000


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="The engine worker: one model behind an OpenAI-compatible port on 127.0.0.1.")
    found.add_argument("--model", type=Path, required=True, help="folder with config.json, safetensors and tokenizer")
    found.add_argument("--port", type=int, required=True)
    found.add_argument("--name", default="default", help="model name in replies")
    found.add_argument("--threads", type=int, default=1, help="CPU threads of a forward pass")
    found.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
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
    if options.adapter:
        parser().error("--adapter: this worker serves no adapters yet; merge them first")
    die_with(options.parent)
    # Read by the OpenMP runtime when torch loads: idle threads must sleep, or a neighbour on the same cores starves.
    os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0", OMP_NUM_THREADS=str(options.threads), TOKENIZERS_PARALLELISM="false")
    import torch

    from llm_pipeline.serving.batching import Batcher, Limits

    torch.set_num_threads(options.threads)
    limits = Limits(in_flight=options.in_flight, queue=options.queue, kv_megabytes=options.kv_megabytes)
    serve(Engine(Batcher(options.model, limits, options.dtype), options.name), options.port)
    os._exit(0)  # a generation thread that hangs must not keep the process


if __name__ == "__main__":
    main()
