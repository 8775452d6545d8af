"""The endpoint from outside: start it, ask for a release, wait until it converged, look at it, end it.

Nothing here serves a request; every function may be called from any process, also while others call it.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from llm_pipeline.errors import ConfigError, EndpointError
from llm_pipeline.records import Release
from llm_pipeline.serving.gateway.settings import load_settings
from llm_pipeline.serving.supervision.processes import read_pid, start_detached
from llm_pipeline.serving.traffic.canary import RolloutConfig
from llm_pipeline.serving.traffic.database import settings
from llm_pipeline.serving.traffic.state import Rollout, Spec, State
from llm_pipeline.store import Home, write_atomically


@dataclass(frozen=True)
class Endpoint:
    """Where the gateway is, and keys for local use."""

    url: str
    key: str
    simulate_key: str
    """May also set the time of a request (header x-event-time)."""
    replay_key: str
    """For mirrored traffic; its interactions carry the key name `replay`."""
    certificate: str | None = None
    """PEM file of its TLS certificate."""

    @property
    def trust(self) -> ssl.SSLContext | None:
        """What a client on this machine checks: this very certificate, whichever host name it is for; None without TLS."""
        if self.certificate is None:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def ensure_up(
    home: Home,
    port: int | None = None,
    timeout: float = 60.0,
    *,
    database: str | None = None,
    gateways: int | None = None,
    certificate: Path | None = None,
    private_key: Path | None = None,
) -> Endpoint:
    """Start the supervisor when none runs, wait until its gateways answer, and say where.

    `database` (a SQLAlchemy URL, else a file in the home), `gateways` (processes behind the port, else 1) and the PEM files of TLS (the
    key may be in the certificate's) are kept for later starts.
    """
    folder = home.endpoint
    folder.mkdir(parents=True, exist_ok=True)
    if read_pid(folder / "supervisor.pid") is None:
        load_settings(folder)  # what is wrong in its file is said here, not in the log of a gateway that cannot start
        _configure(home, {"port": port, "database": database, "gateways": gateways, **_tls_files(certificate, private_key)})
        start_detached("llm_pipeline.serving.supervision.supervisor", ["--folder", str(folder.resolve())], folder / "supervisor.log")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if read_pid(folder / "supervisor.pid") is not None and _answers(home, "/healthz"):
            return endpoint(home)
        time.sleep(0.1)
    raise EndpointError(f"the endpoint did not come up within {timeout:g} s; see {folder / 'supervisor.log'}")


def _tls_files(certificate: Path | None, private_key: Path | None) -> dict[str, str]:
    from llm_pipeline.serving.gateway.connection import Tls

    if certificate is None:
        if private_key is not None:
            raise ConfigError("TLS: received a private key alone, expected a certificate with it")
        return {}
    tls = Tls(certificate.resolve(), (private_key or certificate).resolve())
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.private_key)
    except ssl.SSLError as error:
        raise ConfigError(f"TLS: {tls.certificate} and {tls.private_key} are no PEM certificate and its key: {error.reason}") from error
    return {"certificate": str(tls.certificate), "private_key": str(tls.private_key)}


def _configure(home: Home, values: dict[str, Any]) -> None:
    """Keep what was given; the database's address may hold a password, so the file is this user's alone."""
    path, given = home.endpoint / "endpoint.json", {name: value for name, value in values.items() if value is not None}
    if given:
        write_atomically(path, json.dumps(settings(home.endpoint) | given, indent=1), private=True)


def endpoint(home: Home) -> Endpoint:
    """Where the endpoint is or last was."""
    found = settings(home.endpoint)
    if "url" not in found:
        raise EndpointError(f"no endpoint was started in {home.root}: `llm-pipeline endpoint up` starts one")
    keys = found["keys"]
    return Endpoint(found["url"], keys["local"], keys["simulator"], keys["replay"], found.get("certificate"))


def is_up(home: Home) -> bool:
    return read_pid(home.endpoint / "supervisor.pid") is not None


def deploy(home: Home, release: Release, spec: Spec, config: RolloutConfig = RolloutConfig()) -> int:  # noqa: B008  (frozen)
    """Ask for `release` to answer all requests; returns the rollout's id at once. A release that already does is promoted as it is."""
    state = State(home.endpoint)
    state.register(release, spec)
    return state.begin_rollout(release.id, asdict(config))


def wait(home: Home, rollout: int, timeout: float = 900.0, each: Callable[[Rollout], None] | None = None) -> Rollout:
    """Wait until a rollout is finished (or is an A/B test that runs until somebody decides), calling `each` often meanwhile.

    How it ended is its `status`.
    """
    state, deadline = State(home.endpoint), time.monotonic() + timeout
    while time.monotonic() < deadline:
        current = state.rollout(rollout)
        if current is None:
            raise EndpointError(f"no rollout {rollout} in {home.endpoint}")
        if current.finished or current.status == "running":
            return current
        if not is_up(home):
            raise EndpointError(
                f"the supervisor ended while rollout {rollout} was {current.status}; see {home.endpoint / 'supervisor.log'}"
            )
        if each:
            each(current)
        time.sleep(0.1)
    raise EndpointError(f"rollout {rollout} is not finished after {timeout:g} s: {state.rollout(rollout)}")


def wait_ready(home: Home, timeout: float = 180.0) -> None:
    """Wait until every release that has traffic has an engine that answers (after a restart, say), and all gateways know it."""
    state, deadline, since = State(home.endpoint), time.monotonic() + timeout, float("inf")
    while not _all_looked(home, state, since):
        if since == float("inf") and _answers(home, "/readyz"):
            since = time.time()
        if time.monotonic() > deadline:
            raise EndpointError(f"the endpoint is not ready after {timeout:g} s: {status(home)}")
        time.sleep(0.1)


def _all_looked(home: Home, state: State, since: float) -> bool:
    """Whether each gateway process has read the desired state after `since` (Unix time)."""
    seen = [at >= since for name, (_, at) in state.observations().items() if name.startswith("gateway")]
    return sum(seen) >= settings(home.endpoint).get("gateways", 1)


def rollback(home: Home) -> int:
    """Give all traffic back: to the release that a rollout under way would replace, else to the one that answered before the current.

    Its engine was kept warm, so it takes as long as the gateways need to learn of it.
    """
    state = State(home.endpoint)
    _, weights = state.traffic()
    rollout = state.rollout()
    under_way = rollout is not None and not rollout.finished and rollout.previous is not None
    back = rollout.previous if under_way and rollout is not None else _earlier(state, weights)
    if back is None:
        raise EndpointError("there is no earlier release to go back to")
    return state.begin_rollout(back, asdict(RolloutConfig(strategy="all_at_once")))


def _earlier(state: State, weights: Mapping[str, float]) -> str | None:
    current = max(weights, key=lambda name: weights[name]) if weights else None
    for record in state.history(100):
        name = max(record["weights"], key=lambda n: record["weights"][n])
        if name != current and record["weights"][name] > 0.5:
            return str(name)
    return None


def decide(home: Home, release: str) -> int:
    """End the A/B test under way: all traffic to `release`, which is one of the two. Returns the rollout's id."""
    state = State(home.endpoint)
    rollout = state.rollout()
    if rollout is None or rollout.status != "running":
        raise EndpointError("no A/B test is under way")
    if release not in (rollout.release, rollout.previous):
        raise EndpointError(f"received release {release!r}, expected {rollout.release!r} or {rollout.previous!r}, which are compared")
    state.update_rollout(rollout.id, status="decided", step=int(release == rollout.release))
    return rollout.id


def status(home: Home) -> dict[str, Any]:
    """Processes, traffic, engines and the newest rollout, as plain data."""
    if "url" not in settings(home.endpoint):
        return {"up": False, "traffic": {}, "engines": [], "rollout": None}
    state = State(home.endpoint)
    revision, weights = state.traffic()
    rollout = state.rollout()
    up, now = is_up(home), time.time()
    return {
        "up": up,
        "ready": up and _answers(home, "/readyz"),
        "url": endpoint(home).url,
        "supervisor": read_pid(home.endpoint / "supervisor.pid"),
        "revision": revision,
        "traffic": weights,
        "gateways": {
            name: {"revision": r, "seconds_ago": round(now - at, 1)}
            for name, (r, at) in state.observations().items()
            if name.startswith("gateway")
        },
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


def _answers(home: Home, path: str) -> bool:
    """Whether the gateway answers 200."""
    place = endpoint(home)
    try:
        with urllib.request.urlopen(place.url + path, timeout=5, context=place.trust) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
