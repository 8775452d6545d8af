"""The endpoint as the admin API handles it, and who may."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from llm_pipeline.errors import ConfigError, EndpointError, MissingError, near
from llm_pipeline.serving.gateway.asgi import HttpError
from llm_pipeline.serving.protection.keys import Key, KeyInfo, key_hash
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.database import open_database
from llm_pipeline.serving.traffic.state import Rollout, State
from llm_pipeline.store import Home

log = logging.getLogger(__name__)
bearer = HTTPBearer(auto_error=False, description="A key of scope admin: `llm-pipeline endpoint key NAME --scope admin`.")


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

    def drain(self, name: str) -> None:
        """Ask for one replica to be renewed, which must have another beside it."""
        engines = self.state.engines()
        if name not in engines:
            raise MissingError(f"no engine {name!r}{near(name, engines)}")
        if engines[name].pid == 0:
            raise EndpointError(f"engine {name} runs elsewhere: it cannot be renewed from here")
        twins = [each for each in engines.values() if each.engine == engines[name].engine and each.name != name]
        if not any(twin.state == "ready" for twin in twins):
            raise EndpointError(f"engine {name} has no ready replica beside it: requests would fail meanwhile")
        self.state.drains.ask(name)


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
