"""`llm-pipeline gateway`: the gateway alone, in front of any OpenAI-compatible servers.

It becomes a process of its own, `python -m llm_pipeline.serving.gateway.standalone_cli`, which has loaded nothing of the other stages.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llm_pipeline.errors import ConfigError
from llm_pipeline.shell import HomeOption, open_home


def register(app: typer.Typer) -> None:
    @app.command("gateway", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
    def become(context: typer.Context) -> None:
        """A gateway alone, in front of OpenAI-compatible servers. Example: llm-pipeline gateway --upstream http://127.0.0.1:9000"""
        os.execv(sys.executable, [sys.executable, "-m", __name__, *context.args])


def gateway(
    config: Annotated[Path | None, typer.Option(help="The gateway's file, such as data/gateway.yaml.")] = None,
    upstream: Annotated[list[str] | None, typer.Option(help="URL of a server instead of a file; more are asked when it fails.")] = None,
    model: Annotated[str | None, typer.Option(help="With --upstream: the name of the model there.")] = None,
    key_variable: Annotated[str | None, typer.Option(help="With --upstream: the environment variable with its API key.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keys, limits and interactions; default HOME/gateway.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8080,
    fd: Annotated[int | None, typer.Option(help="A listening socket that was passed on, instead of a port.")] = None,
    reuse_port: Annotated[bool, typer.Option("--reuse-port", help="Other gateways may listen on the same port.")] = False,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of the TLS certificate.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    home: HomeOption = None,
) -> None:
    """Run a gateway in front of OpenAI-compatible servers: keys, limits, guardrails, fallback, routing, a record of every answer.

    Examples: llm-pipeline gateway --config data/gateway.yaml / llm-pipeline gateway --upstream http://127.0.0.1:9000 --model tiny
    """
    from llm_pipeline.serving.gateway.app import Gateway
    from llm_pipeline.serving.gateway.asgi import serve
    from llm_pipeline.serving.gateway.connection import Tls
    from llm_pipeline.serving.gateway.standalone import Alone, FileRoutes, load_alone
    from llm_pipeline.serving.gateway.upstream import Upstream
    from llm_pipeline.serving.observability.logs import start_logging

    if (config is None) == (not upstream):
        raise typer.BadParameter("expected either --config or --upstream")
    start_logging()
    try:
        urls = {f"upstream-{i}": Upstream(url, model, key_variable) for i, url in enumerate(upstream or (), 1)}
        settings = load_alone(config) if config else Alone(upstreams=urls)
        place = folder or open_home(home).root / "gateway"
        routes = FileRoutes(place, settings)
        tls = Tls(certificate, private_key or certificate) if certificate else None
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    routes.ensure_key(place / "key.json")
    typer.echo(f"gateway on port {port} for {', '.join(settings.models)}; a key for this machine is in {place / 'key.json'}", err=True)
    app = Gateway(place, settings, routes, by_name=True)
    serve(app, port, fd=fd, shared=reuse_port, protection=settings.protection, tls=tls)


if __name__ == "__main__":
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command()(gateway)
    alone(prog_name="llm-pipeline gateway")
