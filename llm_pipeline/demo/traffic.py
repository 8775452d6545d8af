"""Simulated customers: the generator's questions of one day, asked of the live endpoint by a bounded number of clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp

from llm_pipeline.curation.support.customers import CustomerMessage
from llm_pipeline.errors import EndpointError


@dataclass(frozen=True)
class TrafficResult:
    """How one day of simulated traffic was answered."""

    answered: int
    right: int
    failed: int


def ask_all(
    url: str, key: str, day: str, customers: Sequence[CustomerMessage], *, clients: int = 32, progress: Callable[[int], None] | None = None
) -> TrafficResult:
    """Ask every question once, spread evenly over `day` by event time; raise when more than one in a hundred fails."""
    outcome = asyncio.run(_ask_all(url, key, day, customers, clients, progress))
    if outcome.failed > len(customers) / 100:
        raise EndpointError(f"{url}: {outcome.failed} of {len(customers)} simulated requests of {day} failed; see endpoint/supervisor.log")
    return outcome


async def _ask_all(
    url: str, key: str, day: str, customers: Sequence[CustomerMessage], clients: int, progress: Callable[[int], None] | None
) -> TrafficResult:
    midnight = datetime.fromisoformat(day).replace(tzinfo=UTC)
    waiting = iter(enumerate(customers))
    answers: list[bool | None] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for i, customer in waiting:
            at = midnight + timedelta(days=1) * ((i + 0.5) / len(customers))
            answers.append(await _ask(session, url, key, at, customer))
            if progress and len(answers) % 150 == 0:
                progress(len(answers))

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    answered = [answer for answer in answers if answer is not None]
    return TrafficResult(len(answered), sum(answered), len(answers) - len(answered))


async def _ask(session: aiohttp.ClientSession, url: str, key: str, at: datetime, customer: CustomerMessage) -> bool | None:
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": customer.question}],
        "user": customer.user,
        "max_tokens": 24,
        "temperature": 0,
        "retrieval": False,
    }
    headers = {"Authorization": f"Bearer {key}", "x-event-time": at.isoformat()}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                return None
            reply = await response.json()
    except (TimeoutError, aiohttp.ClientError):
        return None
    return bool(reply["choices"][0]["message"]["content"].strip() == customer.answer)
