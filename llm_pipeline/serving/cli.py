"""`llm-pipeline endpoint ...`: start, look at, steer and end the endpoint; `engine` and `gateway` run one process alone."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from llm_pipeline.shell import HomeOption, JsonOption, open_home, show

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="The gateway's port; default 8088 when free, else any.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the endpoint (nothing happens when it runs) and print its URL and the local key.

    Example: llm-pipeline endpoint up --port 8088
    """
    from llm_pipeline.serving.client import ensure_up

    found = ensure_up(open_home(home), port)
    show({"url": found.url, "key": found.key}, as_json)


@app.command()
def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End gateway, engines and supervisor. Example: llm-pipeline endpoint down"""
    from llm_pipeline.serving import client

    show({"stopped": client.down(open_home(home))}, as_json)


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Processes, traffic, engines and the newest rollout; exit code 1 when the endpoint is not ready.

    Example: llm-pipeline endpoint status --json
    """
    from llm_pipeline.serving import client

    found = client.status(open_home(home))
    show(found, as_json)
    raise typer.Exit(0 if found.get("ready") else 1)


@app.command()
def rollback(
    home: HomeOption = None, wait: Annotated[float, typer.Option(help="Seconds to wait for it.")] = 120.0, as_json: JsonOption = False
) -> None:
    """Give all traffic back to the release before the current one. Example: llm-pipeline endpoint rollback"""
    from llm_pipeline.serving import client

    place = open_home(home)
    ended = client.wait(place, client.rollback(place), wait)
    show({"rollout": ended.id, "release": ended.release, "status": ended.status}, as_json)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Who the key is for; it appears in every interaction.")],
    scope: Annotated[list[str] | None, typer.Option(help="chat, feedback, simulate, admin; may be repeated.")] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take back every key of this name instead.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key, shown this once, or revoke one.

    Examples: llm-pipeline endpoint key mobile-app --scope chat / llm-pipeline endpoint key mobile-app --revoke
    """
    from llm_pipeline.serving.state import State

    state = State(open_home(home).endpoint)
    if revoke:
        show({"revoked": state.keys.revoke(name)}, as_json)
    else:
        show({"name": name, "key": state.keys.add(name, scope or ["chat", "feedback"])}, as_json)


@app.command(context_settings=PASSED_ON)
def engine(context: typer.Context) -> None:
    """Run one engine worker alone. Example: llm-pipeline endpoint engine --model DIR --port 9000"""
    _become("llm_pipeline.serving.engine", context.args)


@app.command(context_settings=PASSED_ON)
def gateway(context: typer.Context) -> None:
    """Run one gateway alone. Example: llm-pipeline endpoint gateway --folder .llm_pipeline/endpoint --port 8088"""
    _become("llm_pipeline.serving.gateway", context.args)


@app.command(context_settings=PASSED_ON)
def contract(context: typer.Context) -> None:
    """Check any OpenAI-compatible engine against the contract. Example: llm-pipeline endpoint contract http://127.0.0.1:9000 --json"""
    _become("llm_pipeline.serving.contract", context.args)


def _become(module: str, arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


if __name__ == "__main__":
    app()
