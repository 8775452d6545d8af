"""A thousand clients on a real endpoint while traffic moves, engines and gateways are killed, the database stops and the disk fills up.

Two gateways behind one socket, state in PostgreSQL, two replicas of a fast stand-in engine whose answer is a function of the question, and
one engine with a real model for a share of the users, whose answers must be what it says alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from llm_pipeline.paths import DATA
from llm_pipeline.prompts import load_prompt
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.release import PROMPT
from llm_pipeline.serving.traffic.state import State
from llm_pipeline.store import Home
from llm_pipeline_tests.serving.chaos import Crowd, Postgres, fill, kill_engine, kill_gateway, recorded, small_disk
from llm_pipeline_tests.serving.conftest import make_release
from llm_pipeline_tests.serving.fake_vllm import write_executable

CLIENTS, SECONDS = 1000, 12.0
ENGINE_SECONDS = 5.0
"""Time of an answer of the stand-in, so that nearly all clients have a request under way."""
REAL_SHARE = 0.01


@dataclass
class World:
    """The endpoint and what may be done to it."""

    home: Home
    state: State
    postgres: Postgres
    old: str
    new: str
    real: str
    disk: bool
    figures: dict[str, float]


async def until(condition: Callable[[], bool], seconds: float = 120.0) -> float:
    """Wait for something; how long it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        if time.monotonic() - began > seconds:
            raise TimeoutError("waited in vain")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def build(home: Home, folder: Path, postgres: Postgres, *, real: bool, gateways: int = 2) -> tuple[client.Endpoint, State, list[str]]:
    """An endpoint with three releases: two of stand-ins, with engines of their own, and one of a real model (or a third stand-in)."""
    home.endpoint.mkdir(parents=True, exist_ok=True)
    (home.endpoint / "gateway.yaml").write_text("protection: {in_flight: 1000}\n")
    endpoint = client.ensure_up(home, timeout=120, database=postgres.url, gateways=gateways)
    release, spec = make_release(DATA / "models" / "tiny_base", "real")
    executable = write_executable(folder / "engine", "--seconds", str(ENGINE_SECONDS))
    state, names = State(home.endpoint), []
    for name in ("old", "new", "real"):
        engine: dict[str, Any] = {"name": "vllm", "executable": executable, "replicas": 2}
        engine = {"name": "transformers"} if real and name == "real" else engine
        model = spec.model_path if engine["name"] == "transformers" else name
        names.append(state.register(replace(release, model=name, engine=engine), replace(spec, model_path=model)))
    return endpoint, state, names


def begin(home: Home, state: State, weights: dict[str, float], seconds: float = 300.0) -> None:
    """Give these releases traffic and wait until all their engines answer."""
    state.set_traffic(weights, "begin")
    deadline = time.monotonic() + seconds
    while not all(len([e for e in state.engines_of(name) if e.state == "ready"]) == state.find(name).replicas for name in weights):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the engines do not start: {state.engines()}")
        time.sleep(0.2)
    client.wait_ready(home)


async def steady(world: World, crowd: Crowd) -> None:
    await asyncio.sleep(SECONDS)


async def switch(world: World, crowd: Crowd) -> None:
    weights = {world.real: REAL_SHARE, world.new: 0.98 - REAL_SHARE, world.old: 0.02}
    revision = await asyncio.to_thread(world.state.set_traffic, weights, "switch")
    world.figures["every gateway acts on a traffic change, seconds"] = await until(
        lambda: sum(seen >= revision for name, (seen, _) in world.state.observations().items() if name.startswith("gateway")) == 2
    )
    await asyncio.sleep(SECONDS)


async def engine_killed(world: World, crowd: Crowd) -> None:
    await asyncio.to_thread(kill_engine, world.home, world.new)
    await asyncio.sleep(1)
    world.figures["a killed engine answers again, seconds"] = 1 + await until(
        lambda: sum(engine.state == "ready" for engine in world.state.engines_of(world.new)) == 2
    )
    await asyncio.sleep(SECONDS / 2)


def alive(world: World, killed: int) -> dict[str, tuple[int, float]]:
    return {name: seen for name, seen in world.state.observations().items() if not name.endswith(f"-{killed}")}


async def gateway_killed(world: World, crowd: Crowd) -> None:
    killed = await asyncio.to_thread(kill_gateway, world.home)
    world.figures["another gateway took the place of a killed one, seconds"] = await until(
        lambda: sum(name.startswith("gateway") and at > time.time() - 4 for name, (_, at) in alive(world, killed).items()) == 2
    )
    await asyncio.sleep(SECONDS / 2)


async def database_stopped(world: World, crowd: Crowd) -> None:
    await asyncio.to_thread(world.postgres.stop)
    await asyncio.sleep(SECONDS)
    await asyncio.to_thread(world.postgres.start)
    revision = await asyncio.to_thread(world.state.set_traffic, world.state.traffic()[1], "after the stop")
    world.figures["gateways and database found each other again, seconds"] = await until(
        lambda: sum(seen >= revision for name, (seen, _) in world.state.observations().items() if name.startswith("gateway")) == 2
    )


async def disk_full(world: World, crowd: Crowd) -> None:
    if not world.disk:
        crowd.phase.name += " (skipped: no file system can be mounted here)"
        return
    ballast = await asyncio.to_thread(fill, world.home.endpoint / "interactions")
    await asyncio.sleep(SECONDS / 2)
    ballast.unlink()
    before = crowd.phase.ok
    world.figures["answers again after a full disk, seconds"] = await until(lambda: crowd.phase.ok > before + 20)
    await asyncio.sleep(SECONDS / 2)


async def rolled_back(world: World, crowd: Crowd) -> None:
    await asyncio.to_thread(compare_real, world, crowd)
    began, pids = time.monotonic(), {engine.pid for engine in world.state.engines_of(world.old)}
    await asyncio.to_thread(lambda: client.wait(world.home, client.rollback(world.home), 60))
    world.figures["rollback, until every gateway acts on it, seconds"] = time.monotonic() - began
    world.figures["engines started for the rollback"] = len({engine.pid for engine in world.state.engines_of(world.old)} - pids)
    await asyncio.sleep(SECONDS / 2)


PHASES: dict[str, Callable[[World, Crowd], Awaitable[None]]] = {
    "steady": steady,
    "traffic switch": switch,
    "engine kill -9": engine_killed,
    "gateway kill -9": gateway_killed,
    "database stop": database_stopped,
    "disk full": disk_full,
    "rollback": rolled_back,
    "after": steady,
}


async def run(world: World, crowd: Crowd, phases: dict[str, Callable[[World, Crowd], Awaitable[None]]]) -> None:
    stop = asyncio.Event()
    clients = asyncio.create_task(crowd.run(stop))
    try:
        await asyncio.sleep(SECONDS / 2)
        for name, happen in phases.items():
            crowd.begin(name)
            await happen(world, crowd)
    finally:
        stop.set()
        await clients


def compare_real(world: World, crowd: Crowd, most: int = 30) -> None:
    """Ask the real model alone, past the gateway, what it was asked under load."""
    system, url = load_prompt(PROMPT), world.state.engines_of(world.real)[0].url
    wrong, asked = 0, list(crowd.real_answers.items())[:most]
    for question, answer in asked:
        messages = system.messages([{"role": "user", "content": question}])
        body = json.dumps({"messages": messages, "max_tokens": 16, "temperature": 0}).encode()
        request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            wrong += json.load(reply)["choices"][0]["message"]["content"] != answer
    world.figures |= {"real model: answers under load compared": len(asked), "real model: answers that differ": wrong}


def report(world: World, crowd: Crowd, clients: int) -> Table:
    table = Table(
        "phase", "requests", "ok", "retried", "p50 s", "p99 s", "lost", "wrong", "errors by kind", title=f"{clients} clients, two gateways"
    )
    known = recorded(world.home)
    for phase in crowd.phases[1:]:
        seconds = sorted(phase.seconds) or [0.0]
        errors = ", ".join(f"{count} x {kind}" for kind, count in phase.errors.most_common()) or "-"
        times = (f"{seconds[int(len(seconds) * q)]:.2f}" for q in (0.5, 0.99))
        lost = len(phase.acknowledged - known)
        table.add_row(phase.name, str(phase.requests), str(phase.ok), str(phase.retried), *times, str(lost), str(phase.wrong), errors)
    return table


def main(clients: int = CLIENTS) -> None:
    console = Console(width=170)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home, postgres = Home(folder / "home"), stack.enter_context(Postgres())
        disk = True
        try:
            stack.enter_context(small_disk(home.endpoint / "interactions", 256))
        except OSError as error:
            console.print(f"disk full: skipped, {error}")
            disk = False
        stack.callback(client.down, home)
        endpoint, state, (old, new, real) = build(home, folder, postgres, real=True)
        stack.callback(state.close)
        config = RolloutConfig(strategy="all_at_once")
        client.wait(home, state.begin_rollout(old, vars(config)), 120)
        begin(home, state, {real: REAL_SHARE, old: 0.98 - REAL_SHARE, new: 0.02})
        world, crowd = World(home, state, postgres, old, new, real, disk, {}), Crowd(endpoint, clients, real)
        asyncio.run(run(world, crowd, PHASES))
        console.print(report(world, crowd, clients))
        world.figures["questions given up"] = crowd.given_up
        world.figures["503 and 429 without retry-after"] = sum(phase.without_retry_after for phase in crowd.phases)
        for name, figure in world.figures.items():
            console.print(f"{name}: {figure:.2f}" if isinstance(figure, float) else f"{name}: {figure}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
