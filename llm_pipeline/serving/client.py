"""The endpoint from outside: start it, ask for a release, wait until it converged, look at it, end it.

Nothing here serves a request; every function may be called from any process, also while others call it.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from llm_pipeline.errors import EndpointError
from llm_pipeline.records import Release
from llm_pipeline.serving.canary import RolloutConfig
from llm_pipeline.serving.processes import read_pid, start_detached
from llm_pipeline.serving.state import Rollout, Spec, State
from llm_pipeline.store import Home


@dataclass(frozen=True)
class Endpoint:
    """Where the gateway is, and keys for local use."""

    url: str
    key: str
    simulate_key: str
    """May also set the time of a request (header x-event-time)."""
    replay_key: str
    """For mirrored traffic; its interactions carry the key name `replay`."""


def ensure_up(home: Home, port: int | None = None, timeout: float = 60.0) -> Endpoint:
    """Start the supervisor when none runs, wait until its gateway answers, and say where."""
    folder = home.endpoint
    folder.mkdir(parents=True, exist_ok=True)
    if read_pid(folder / "supervisor.pid") is None:
        arguments = ["--folder", str(folder.resolve()), *(["--port", str(port)] if port else [])]
        start_detached("llm_pipeline.serving.supervisor", arguments, folder / "supervisor.log")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if read_pid(folder / "supervisor.pid") is not None and _get(f"{endpoint(home).url}/healthz")[0] == 200:
            return endpoint(home)
        time.sleep(0.1)
    raise EndpointError(f"the endpoint did not come up within {timeout:g} s; see {folder / 'supervisor.log'}")


def endpoint(home: Home) -> Endpoint:
    """Where the endpoint is or last was."""
    try:
        found = json.loads((home.endpoint / "endpoint.json").read_text())
    except FileNotFoundError:
        raise EndpointError(f"no endpoint was started in {home.root}: `llm-pipeline endpoint up` starts one") from None
    return Endpoint(found["url"], found["keys"]["local"], found["keys"]["simulator"], found["keys"]["replay"])


def is_up(home: Home) -> bool:
    return read_pid(home.endpoint / "supervisor.pid") is not None


def deploy(home: Home, release: Release, spec: Spec, config: RolloutConfig = RolloutConfig()) -> int:  # noqa: B008  (frozen)
    """Ask for `release` to answer all requests; returns the rollout's id at once. A release that already does is promoted as it is."""
    state = State(home.endpoint)
    state.register(release, spec)
    return state.begin_rollout(release.id, asdict(config))


def wait(home: Home, rollout: int, timeout: float = 900.0, each: Callable[[Rollout], None] | None = None) -> Rollout:
    """Wait until a rollout is finished, calling `each` about twice a second meanwhile; how it ended is its `status`."""
    state, deadline = State(home.endpoint), time.monotonic() + timeout
    while time.monotonic() < deadline:
        current = state.rollout(rollout)
        if current is None:
            raise EndpointError(f"no rollout {rollout} in {home.endpoint}")
        if current.finished:
            return current
        if not is_up(home):
            raise EndpointError(
                f"the supervisor ended while rollout {rollout} was {current.status}; see {home.endpoint / 'supervisor.log'}"
            )
        if each:
            each(current)
        time.sleep(0.4)
    raise EndpointError(f"rollout {rollout} is not finished after {timeout:g} s: {state.rollout(rollout)}")


def wait_ready(home: Home, timeout: float = 180.0) -> None:
    """Wait until every release that has traffic has an engine that answers (after a restart, say)."""
    deadline = time.monotonic() + timeout
    while _get(f"{endpoint(home).url}/readyz")[0] != 200:
        if time.monotonic() > deadline:
            raise EndpointError(f"the endpoint is not ready after {timeout:g} s: {status(home)}")
        time.sleep(0.2)


def rollback(home: Home) -> int:
    """Give all traffic back to the release that answered before the current one."""
    state = State(home.endpoint)
    _, weights = state.traffic()
    current = max(weights, key=lambda name: weights[name]) if weights else None
    earlier = [row["weights"] for row in state.history(100)]
    for shares in earlier:
        name = max(shares, key=lambda n: shares[n])
        if name != current and shares[name] > 0.5:
            return state.begin_rollout(name, asdict(RolloutConfig(strategy="all_at_once")))
    raise EndpointError("there is no earlier release to go back to")


def status(home: Home) -> dict[str, Any]:
    """Processes, traffic, engines and the newest rollout, as plain data."""
    if not (home.endpoint / "endpoint.db").exists():
        return {"up": False, "traffic": {}, "engines": [], "rollout": None}
    state = State(home.endpoint)
    revision, weights = state.traffic()
    rollout = state.rollout()
    up = is_up(home)
    ready, _ = _get(f"{endpoint(home).url}/readyz") if up else (0, b"")
    return {
        "up": up,
        "ready": ready == 200,
        "url": endpoint(home).url if (home.endpoint / "endpoint.json").exists() else None,
        "supervisor": read_pid(home.endpoint / "supervisor.pid"),
        "revision": revision,
        "traffic": weights,
        "engines": [asdict(engine) for engine in state.engines().values()],
        "rollout": asdict(rollout) | {"evidence": {k: v for k, v in rollout.evidence.items() if k != "marks"}} if rollout else None,
    }


def down(home: Home, timeout: float = 20.0) -> bool:
    """End supervisor, gateway and engines; True when there was something to end. No process is left when it returns."""
    pid = read_pid(home.endpoint / "supervisor.pid")
    if pid is None:
        return False
    family = _family(pid)
    os.kill(pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, 5)
    (home.endpoint / "supervisor.pid").unlink(missing_ok=True)
    return True


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(reply.status), reply.read()
    except urllib.error.HTTPError as error:
        return error.code, b""
    except (urllib.error.URLError, OSError):
        return 0, b""
