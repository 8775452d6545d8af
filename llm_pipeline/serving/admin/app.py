"""The admin API, on a port of its own: releases, traffic, rollouts, keys and engines, for keys of scope `admin`.

It only writes what is wanted into the endpoint's database, which supervisor and gateways act on, and reads what they say they saw.

python -m llm_pipeline.serving.admin.app --folder HOME/endpoint --port 8089
"""

from __future__ import annotations

import argparse
import logging
import socket
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from llm_pipeline.errors import ConfigError, ContractError, EndpointError, InputError, MissingError, PipelineError
from llm_pipeline.serving.admin import models as models
from llm_pipeline.serving.admin import routes as routes
from llm_pipeline.serving.admin.place import Admin
from llm_pipeline.serving.gateway.asgi import HttpError, listener
from llm_pipeline.serving.gateway.connection import Tls, server_options
from llm_pipeline.serving.observability.logs import start_logging
from llm_pipeline.serving.protection.limits import Protection
from llm_pipeline.serving.supervision.processes import die_with

log = logging.getLogger(__name__)
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": models.ErrorReply}, "5XX": {"model": models.ErrorReply}}
STATUS: dict[type[PipelineError], int] = {MissingError: 404, ConfigError: 400, InputError: 400, ContractError: 409, EndpointError: 409}


def build_app(folder: Path) -> FastAPI:
    """The ASGI application over an endpoint's folder."""
    app = FastAPI(title="llm-pipeline endpoint: admin", version="1", docs_url=None, redoc_url=None, responses=ERRORS)
    app.state.admin = Admin(folder)
    for add in (routes.add_releases, routes.add_traffic, routes.add_rollouts, routes.add_keys, routes.add_engines):
        add(app)
    app.add_exception_handler(HttpError, _refusal)
    app.add_exception_handler(PipelineError, _pipeline_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(sa.exc.SQLAlchemyError, _database_error)
    return app


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
        there = [route for route in request.app.router.routes if isinstance(route, Route) and route.path_regex.match(request.url.path)]
        reply.headers["allow"] = ", ".join(sorted({method for route in there for method in route.methods or ()}))
    return reply


async def _database_error(request: Request, error: Exception) -> Response:
    log.warning("the database refused: %s", error)
    return _error(HttpError(503, "the endpoint's database cannot be used now", code="database_unavailable", retry_after=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="The endpoint's admin API, on 127.0.0.1.")
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder (HOME/endpoint)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int, help="port to listen on")
    where.add_argument("--fd", type=int, help="a listening socket that was passed on, instead of a port")
    parser.add_argument("--certificate", type=Path, help="PEM file; the API speaks TLS then")
    parser.add_argument("--private-key", type=Path)
    parser.add_argument("--parent", type=int, help="end when this process does")
    options = parser.parse_args()
    die_with(options.parent)
    start_logging()
    opened = listener(options.port, options.fd)
    run(build_app(options.folder.resolve()), opened, tls_of(options.certificate, options.private_key))


def tls_of(certificate: Path | None, private_key: Path | None) -> Tls | None:
    """Both files, or neither."""
    if certificate is None and private_key is None:
        return None
    if certificate is None or private_key is None:
        raise ConfigError("TLS needs both --certificate and --private-key")
    return Tls(certificate, private_key)


def run(app: FastAPI, opened: socket.socket, tls: Tls | None) -> None:
    import uvicorn

    bounds: dict[str, Any] = server_options(Protection(connections=256), tls)
    uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", ws="none", **bounds)).run(sockets=[opened])


if __name__ == "__main__":
    main()
