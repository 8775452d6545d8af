"""Copies of requests never answer, never wait, and are bounded."""

from __future__ import annotations

import asyncio

from llm_pipeline.serving.gateway.asgi import HttpError, Send, send_json
from llm_pipeline.serving.gateway.mirror import Mirror


def test_copies_are_bounded_and_their_answers_go_nowhere() -> None:
    async def scenario() -> None:
        mirror, free, answered = Mirror(most=2), asyncio.Event(), []

        async def answer(send: Send) -> None:
            await free.wait()
            await send_json(send, 200, {"text": "nobody reads this"})
            answered.append(1)

        for _ in range(5):
            mirror.offer(answer)
        assert (mirror.copied, mirror.dropped) == (2, 3)
        free.set()
        while len(answered) < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        mirror.offer(answer)
        assert mirror.copied == 3
        await mirror.close()

    asyncio.run(scenario())


def test_a_copy_that_fails_or_is_given_up_harms_nobody() -> None:
    async def scenario() -> None:
        mirror, ended = Mirror(), []

        async def refused(send: Send) -> None:
            raise HttpError(503, "no engine answers")

        async def endless(send: Send) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(1)

        mirror.offer(refused)
        mirror.offer(endless)
        await asyncio.sleep(0)
        await mirror.close()
        assert ended == [1]

    asyncio.run(scenario())
