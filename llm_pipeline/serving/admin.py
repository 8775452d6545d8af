"""The admin API, on a port of its own: releases, traffic, rollouts, keys and engines, for keys of scope `admin`.

It only writes what is wanted into the endpoint's database, which supervisor and gateways act on, and reads what they say they saw.

python -m llm_pipeline.serving.admin --folder HOME/endpoint --port 8089
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.routing import Route

from llm_pipeline.errors import ConfigError, ContractError, EndpointError, InputError, MissingError, PipelineError, near
from llm_pipeline.serving import admin_models as models
from llm_pipeline.serving import client
from llm_pipeline.serving.admin_models import Id, Number
from llm_pipeline.serving.asgi import HttpError
from llm_pipeline.serving.connection import Tls, server_options
from llm_pipeline.serving.database import open_database
from llm_pipeline.serving.keys import Key, KeyInfo, key_hash
from llm_pipeline.serving.leases import MICRO, MONTH_COST, MONTH_TOKENS, month_of, used
from llm_pipeline.serving.limits import Protection
from llm_pipeline.serving.logs import start_logging
from llm_pipeline.serving.processes import die_with
from llm_pipeline.serving.state import Registered, Rollout, State
from llm_pipeline.store import Home

log = logging.getLogger(__name__)
bearer = HTTPBearer(auto_error=False, description="A key of scope admin: `llm-pipeline endpoint key NAME --scope admin`.")
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": models.ErrorReply}, "5XX": {"model": models.ErrorReply}}
STATUS: dict[type[PipelineError], int] = {MissingError: 404, ConfigError: 400, InputError: 400, ContractError: 409, EndpointError: 409}


class Admin:
    """The endpoint that the API is about."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder.parent)
        if self.home.endpoint != folder:
            raise ConfigError(f"--folder: received {folder}, expected HOME/endpoint")
        self.state, self.database = State(folder), open_database(folder)

    def authenticate(self, secret: str | None) -> Key:
        if not secret:
            raise HttpError(401, "an API key is needed: Authorization: Bearer <key>", code="missing_api_key")
        key = self.state.keys.valid().get(key_hash(secret))
        if key is None:
            raise HttpError(401, "the API key is not valid", code="invalid_api_key")
        if "admin" not in key.scopes:
            raise HttpError(403, "the API key lacks the scope admin", code="scope_missing")
        self.state.keys.seen(key.id)
        self.state.keys.write_seen()
        return key

    def key(self, identity: int) -> KeyInfo:
        found = next((key for key in self.state.keys.listed() if key.id == identity), None)
        if found is None:
            raise MissingError(f"no key {identity}")
        return found

    def rollout(self, identity: int | None) -> Rollout:
        found = self.state.rollout(identity)
        if found is None:
            raise MissingError("there was no rollout yet" if identity is None else f"no rollout {identity}")
        return found

    def abort(self, identity: int) -> Rollout:
        """End a rollout under way; its traffic goes back to the release before it."""
        rollout = self.rollout(identity)
        if rollout.finished:
            raise EndpointError(f"rollout {identity} is finished: {rollout.status}")
        if rollout.previous is None:
            self.state.update_rollout(identity, status="failed", evidence={**rollout.evidence, "reason": "aborted"})
        else:
            client.rollback(self.home)
        return self.rollout(identity)


def caller(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Key:
    """The key of a request, which must be an admin's; what it changes is written to the log under its name."""
    admin: Admin = request.app.state.admin
    key = admin.authenticate(given.credentials if given else None)
    if request.method != "GET":
        log.info("key %s: %s %s", key.name, request.method, request.url.path)
    return key


def the_admin(request: Request) -> Admin:
    found: Admin = request.app.state.admin
    return found


Caller = Annotated[Key, Depends(caller)]
The = Annotated[Admin, Depends(the_admin)]


def build_app(folder: Path) -> FastAPI:
    """The ASGI application over an endpoint's folder."""
    app = FastAPI(title="llm-pipeline endpoint: admin", version="1", docs_url=None, redoc_url=None, responses=ERRORS)
    app.state.admin = Admin(folder)
    for add in (_add_releases, _add_traffic, _add_rollouts, _add_keys, _add_engines):
        add(app)
    app.add_exception_handler(HttpError, _refusal)
    app.add_exception_handler(PipelineError, _pipeline_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(sa.exc.SQLAlchemyError, _database_error)
    return app


def _add_releases(app: FastAPI) -> None:
    @app.get("/v1/releases")
    def releases(_: Caller, admin: The) -> list[models.ReleaseReply]:
        return [_release(name, found) for name, found in admin.state.registered().items()]

    @app.post("/v1/releases", status_code=201)
    def register(_: Caller, admin: The, body: models.Registering) -> models.ReleaseReply:
        """Make a release artefact of this home known to the endpoint; it gets traffic by a rollout or by traffic weights."""
        from llm_pipeline.serving.release import resolve

        artifacts = admin.home.artifacts
        named = artifacts.has("release", body.artifact)
        identity = admin.state.register(*resolve(admin.home, (artifacts.named if named else artifacts.get)("release", body.artifact)))
        return _release(identity, admin.state.find(identity))

    @app.get("/v1/releases/{release}")
    def release(_: Caller, admin: The, release: Id) -> models.ReleaseReply:
        return _release(release, admin.state.find(release))


def _add_traffic(app: FastAPI) -> None:
    def reply(admin: Admin) -> models.TrafficReply:
        revision, weights, shadow = admin.state.traffic_and_shadow()
        observed = {name: seen for name, (seen, _) in admin.state.observations().items()}
        return models.TrafficReply(revision=revision, weights=weights, shadow=shadow, observed=observed)

    @app.get("/v1/traffic")
    def traffic(_: Caller, admin: The) -> models.TrafficReply:
        return reply(admin)

    @app.put("/v1/traffic")
    def set_traffic(key: Caller, admin: The, body: models.SetTraffic) -> models.TrafficReply:
        """Share the requests out at once, without a rollout's checks."""
        total = sum(body.weights.values())
        shares = {name: weight / total for name, weight in body.weights.items()}
        admin.state.set_traffic(shares, f"{body.reason} (key {key.name})", shadow=body.shadow)
        return reply(admin)

    @app.get("/v1/traffic/history")
    def history(_: Caller, admin: The) -> list[models.TrafficRecord]:
        return [models.TrafficRecord(**row) for row in admin.state.history(100)]

    @app.post("/v1/rollback", status_code=202)
    def rollback(_: Caller, admin: The) -> models.RolloutReply:
        """Give all traffic back: to what a rollout under way would replace, else to the release before the current one."""
        return _rollout(admin.rollout(client.rollback(admin.home)))


def _add_rollouts(app: FastAPI) -> None:
    @app.post("/v1/rollouts", status_code=202)
    def start(_: Caller, admin: The, body: models.StartRollout) -> models.RolloutReply:
        return _rollout(admin.rollout(admin.state.begin_rollout(body.release, body.config.model_dump())))

    @app.get("/v1/rollouts/newest")
    def newest(_: Caller, admin: The) -> models.RolloutReply:
        return _rollout(admin.rollout(None))

    @app.get("/v1/rollouts/{rollout}")
    def one(_: Caller, admin: The, rollout: Number) -> models.RolloutReply:
        return _rollout(admin.rollout(rollout))

    @app.post("/v1/rollouts/{rollout}/abort")
    def abort(_: Caller, admin: The, rollout: Number) -> models.RolloutReply:
        return _rollout(admin.abort(rollout))


def _add_keys(app: FastAPI) -> None:
    @app.get("/v1/keys")
    def keys(_: Caller, admin: The) -> list[models.KeyReply]:
        return [models.KeyReply.of(key) for key in admin.state.keys.listed()]

    @app.post("/v1/keys", status_code=201)
    def make(_: Caller, admin: The, body: models.MakeKey) -> models.SecretReply:
        identity, secret = admin.state.keys.create(
            body.name, sorted(set(body.scopes)), labels=body.labels, limits=body.limits.limits(), expires_at=body.expires_at()
        )
        return models.SecretReply(id=identity, secret=secret)

    @app.get("/v1/keys/{key}")
    def one(_: Caller, admin: The, key: Number) -> models.KeyReply:
        return models.KeyReply.of(admin.key(key))

    @app.patch("/v1/keys/{key}")
    def change(caller: Caller, admin: The, key: Number, body: models.ChangeKey) -> models.KeyReply:
        _refuse_own(caller, key)
        admin.state.keys.change(key, **body.values())
        return models.KeyReply.of(admin.key(key))

    @app.post("/v1/keys/{key}/rotate")
    def rotate(_: Caller, admin: The, key: Number, body: models.RotateKey) -> models.SecretReply:
        return models.SecretReply(id=key, secret=admin.state.keys.rotate(key, body.overlap_seconds))

    @app.delete("/v1/keys/{key}")
    def revoke(caller: Caller, admin: The, key: Number) -> models.Done:
        _refuse_own(caller, key)
        if not admin.state.keys.revoke(key):
            raise MissingError(f"no key {key} in force")
        return models.Done()

    @app.get("/v1/keys/{key}/usage")
    def usage(_: Caller, admin: The, key: Number) -> models.UsageReply:
        """What is written down of this month; what requests under way use follows within a second of their end."""
        admin.key(key)
        spent = used(admin.database, key, time.time())
        return models.UsageReply(month=month_of(time.time()), tokens=spent.get(MONTH_TOKENS, 0), cost=spent.get(MONTH_COST, 0) / MICRO)


def _add_engines(app: FastAPI) -> None:
    @app.get("/healthz", responses={})
    def healthz() -> models.Health:
        return models.Health(status="ok")

    @app.get("/v1/engines")
    def engines(_: Caller, admin: The) -> list[models.EngineReply]:
        return [models.EngineReply(**asdict(engine)) for engine in admin.state.engines().values()]

    @app.post("/v1/engines/{engine}/drain", status_code=202)
    def drain(_: Caller, admin: The, engine: Id) -> models.Done:
        """Renew one replica without failing a request: it gets no more of them, finishes what it answers, and a new one starts."""
        _drain(admin, engine)
        return models.Done()


def _refuse_own(caller: Key, key: int) -> None:
    if caller.id == key:
        raise EndpointError("a key cannot change or revoke itself; another key of scope admin can, or `llm-pipeline endpoint key`")


def _drain(admin: Admin, name: str) -> None:
    engines = admin.state.engines()
    if name not in engines:
        raise MissingError(f"no engine {name!r}{near(name, engines)}")
    if engines[name].pid == 0:
        raise EndpointError(f"engine {name} runs elsewhere: it cannot be renewed from here")
    others = [other for other in engines.values() if other.engine == engines[name].engine and other.name != name and other.state == "ready"]
    if not others:
        raise EndpointError(f"engine {name} has no ready replica beside it: requests would fail meanwhile")
    admin.state.drains.ask(name)


def _release(identity: str, found: Registered) -> models.ReleaseReply:
    return models.ReleaseReply(id=identity, **asdict(found.release), replicas=found.replicas)


def _rollout(rollout: Rollout) -> models.RolloutReply:
    evidence = {name: value for name, value in rollout.evidence.items() if name != "marks"}
    return models.RolloutReply(**{**asdict(rollout), "evidence": evidence}, finished=rollout.finished)


def _error(error: HttpError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers())


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError)
    return _error(error)


async def _pipeline_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return _error(HttpError(status, str(error)))


async def _invalid(request: Request, error: Exception) -> Response:
    """Which field, and what is expected there; never what was received, which may be a secret."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    return _error(HttpError(400, "; ".join(found[:5]), code="invalid_request"))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reply = _error(HttpError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))
    reply.headers.update(error.headers or {})
    if error.status_code == 405:  # Starlette names the methods of the first route with this path only
        routes = [route for route in request.app.router.routes if isinstance(route, Route) and route.path_regex.match(request.url.path)]
        reply.headers["allow"] = ", ".join(sorted({method for route in routes for method in route.methods or ()}))
    return reply


async def _database_error(request: Request, error: Exception) -> Response:
    log.warning("the database refused: %s", error)
    return _error(HttpError(503, "the endpoint's database cannot be used now", code="database_unavailable", retry_after=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="The endpoint's admin API, on 127.0.0.1.")
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder (HOME/endpoint)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", type=Path, help="PEM file; the API speaks TLS then")
    parser.add_argument("--private-key", type=Path)
    parser.add_argument("--parent", type=int, help="end when this process does")
    options = parser.parse_args()
    die_with(options.parent)
    start_logging()
    run(build_app(options.folder.resolve()), options.port, tls_of(options.certificate, options.private_key))


def tls_of(certificate: Path | None, private_key: Path | None) -> Tls | None:
    """Both files, or neither."""
    if certificate is None and private_key is None:
        return None
    if certificate is None or private_key is None:
        raise ConfigError("TLS needs both --certificate and --private-key")
    return Tls(certificate, private_key)


def run(app: FastAPI, port: int, tls: Tls | None) -> None:
    import uvicorn

    bounds: dict[str, Any] = server_options(Protection(connections=256), tls)
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning", ws="none", **bounds)


if __name__ == "__main__":
    main()
