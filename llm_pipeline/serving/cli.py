"""`llm-pipeline endpoint ...`: start, look at, steer and end the endpoint; `engine` and `gateway` run one process alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llm_pipeline.serving.protection import cli as cli_keys
from llm_pipeline.shell import HomeOption, JsonOption, open_home, show

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="The gateways' port; default 8088 when free, else any.")] = None,
    gateways: Annotated[int | None, typer.Option(help="Gateway processes behind that port; default 1.")] = None,
    database: Annotated[str | None, typer.Option(help="postgresql://... for its state; default a file.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file of a TLS certificate: gateways and admin API speak TLS.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="PEM file of its key, if it is not in the same file.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the endpoint (nothing happens when it runs) and print its URL and the local key.

    All options are kept for later starts. Example: llm-pipeline endpoint up --port 8088 --gateways 2
    """
    from llm_pipeline.serving.supervision.client import ensure_up

    place = open_home(home)
    found = ensure_up(place, port, database=database, gateways=gateways, certificate=certificate, private_key=private_key)
    show({"url": found.url, "key": found.key}, as_json)


@app.command()
def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """End gateway, engines and supervisor. Example: llm-pipeline endpoint down"""
    from llm_pipeline.serving.supervision import client

    show({"stopped": client.down(open_home(home))}, as_json)


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Processes, traffic, engines and the newest rollout; exit code 1 when the endpoint is not ready.

    Example: llm-pipeline endpoint status --json
    """
    from llm_pipeline.serving.supervision import client

    found = client.status(open_home(home))
    show(found, as_json)
    raise typer.Exit(0 if found.get("ready") else 1)


@app.command()
def rollback(
    home: HomeOption = None, wait: Annotated[float, typer.Option(help="Seconds to wait for it.")] = 120.0, as_json: JsonOption = False
) -> None:
    """Give all traffic back to the release before the current one. Example: llm-pipeline endpoint rollback"""
    from llm_pipeline.serving.traffic.release import roll_back

    record = roll_back(open_home(home), wait).json("rollout.json")
    shown = {"rollout": record["id"], "release": record["release"], "status": record["status"], "seconds": record["evidence"]["seconds"]}
    show(shown, as_json)
    raise typer.Exit(0 if record["status"] == "promoted" else 1)


@app.command()
def rollout(
    strategy: Annotated[str, typer.Option(help="auto, all_at_once, blue_green, rolling, canary, shadow or ab.")] = "auto",
    share: Annotated[float, typer.Option(help="ab: the new release's share of the users.")] = 0.5,
    requests: Annotated[int, typer.Option(help="Requests to judge in each step of a canary.")] = 200,
    rise: Annotated[float, typer.Option(help="canary: how much larger the share of bad requests may be (0.04: four points).")] = 0.04,
    shadow_requests: Annotated[int, typer.Option(help="canary: mirrored requests to judge first.")] = 0,
    seconds: Annotated[float, typer.Option(help="Most seconds for all of it.")] = 900.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move traffic to the newest release; exit code 1 when it was not promoted (or, for shadow and ab, did not get that far).

    Examples: llm-pipeline endpoint rollout --strategy canary / llm-pipeline endpoint rollout --strategy ab --share 0.2
    """
    from llm_pipeline.config import build
    from llm_pipeline.serving.traffic.canary import RolloutConfig
    from llm_pipeline.serving.traffic.release import roll_out

    given = {"strategy": strategy, "share": share, "step_requests": requests, "allowed_rise": rise, "shadow_requests": shadow_requests}
    config = build(RolloutConfig, given | {"max_seconds": seconds}, "options")
    place = open_home(home)
    record = roll_out(place, place.artifacts.named("release"), config).json("rollout.json")
    show({"rollout": record["id"], "release": record["release"], "status": record["status"], "evidence": record["evidence"]}, as_json)
    raise typer.Exit(0 if record["status"] in ("promoted", {"shadow": "held", "ab": "running"}.get(strategy)) else 1)


@app.command()
def decide(
    release: Annotated[str, typer.Argument(help="The release that all users get from now on: one of the two under test.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the A/B test under way; `llm-pipeline endpoint status` shows what was seen of both.

    Example: llm-pipeline endpoint decide 1f0c6c1d2a3b4e5f
    """
    from llm_pipeline.serving.supervision import client

    place = open_home(home)
    ended = client.wait(place, client.decide(place, release), 120)
    show({"rollout": ended.id, "release": ended.release, "status": ended.status}, as_json)


cli_keys.register(app)


@app.command(context_settings=PASSED_ON)
def engine(context: typer.Context) -> None:
    """Run one engine worker alone. Example: llm-pipeline endpoint engine --model DIR --port 9000"""
    _become("llm_pipeline.serving.engine.worker", context.args)


@app.command(context_settings=PASSED_ON)
def gateway(context: typer.Context) -> None:
    """Run one gateway alone. Example: llm-pipeline endpoint gateway --folder .llm_pipeline/endpoint --port 8088"""
    _become("llm_pipeline.serving.gateway.app", context.args)


@app.command(context_settings=PASSED_ON)
def contract(context: typer.Context) -> None:
    """Check any OpenAI-compatible engine against the contract. Example: llm-pipeline endpoint contract http://127.0.0.1:9000 --json"""
    _become("llm_pipeline.serving.engine.contract", context.args)


def _become(module: str, arguments: list[str]) -> None:
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


if __name__ == "__main__":
    app()
