"""`llm-pipeline endpoint key` and `keys`: make, list, rotate and revoke the API keys of the endpoint; `admin` runs the admin API alone."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Annotated

import typer

from llm_pipeline.errors import ConfigError, MissingError
from llm_pipeline.serving.protection.keys import KeyInfo, Keys, Limits
from llm_pipeline.shell import HomeOption, JsonOption, open_home, show

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def key(
    name: Annotated[str, typer.Argument(help="Who the key is for; it appears in every interaction.")],
    scope: Annotated[list[str] | None, typer.Option(help="chat, feedback, simulate, admin; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Access label: it sees passages that carry one of its labels.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at once.")] = None,
    monthly_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    monthly_cost: Annotated[float | None, typer.Option(min=0.0)] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is good for: 90d, 12h, 30m.")] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="Give the key of this name a new secret instead.")] = False,
    overlap: Annotated[str, typer.Option(help="With --rotate: how long the old secret is accepted too.")] = "1d",
    revoke: Annotated[bool, typer.Option("--revoke", help="Take back every key of this name instead.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key, shown this once; rotate or revoke one.

    Examples: llm-pipeline endpoint key mobile-app --scope chat --requests-per-minute 60 --expires 90d /
    llm-pipeline endpoint key mobile-app --rotate --overlap 2h / llm-pipeline endpoint key mobile-app --revoke
    """
    if rotate and revoke:
        raise ConfigError("received --rotate and --revoke, expected one of them")
    keys = _keys(home)
    if revoke:
        show({"revoked": keys.revoke(name)}, as_json)
    elif rotate:
        show({"name": name, "key": keys.rotate(_only(keys, name).id, seconds_of(overlap)), "old_one_good_for": overlap}, as_json)
    else:
        limits = Limits(requests_per_minute, tokens_per_minute, concurrent, monthly_tokens, monthly_cost)
        until = time.time() + seconds_of(expires) if expires else None
        secret = keys.add(name, scope or ["chat", "feedback"], labels=label or (), limits=limits, expires_at=until)
        show({"name": name, "key": secret}, as_json)


def keys(
    everything: Annotated[bool, typer.Option("--all", help="Also those revoked or expired.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the API keys: what each may do, how much, and when it was last used. Example: llm-pipeline endpoint keys --json"""
    found = [described(each) for each in _keys(home).listed() if everything or _in_force(each)]
    show({"keys": found} if as_json else {f"{each.pop('id')} {each.pop('name')}": each for each in found}, as_json)


def described(key: KeyInfo) -> dict[str, object]:
    """What is set of a key, as plain data."""
    moments = ("created_at", "expires_at", "revoked_at", "last_used", "rotates_until")
    times = {name: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for name in moments if (at := getattr(key, name))}
    limits = {name: value for name, value in vars(key.limits).items() if value is not None}
    lists = {"scopes": sorted(key.scopes), **({"labels": sorted(key.labels)} if key.labels else {})}
    return {"id": key.id, "name": key.name, **lists, **limits, **times}


def seconds_of(text: str) -> float:
    """90d, 12h, 30m or 45s in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise ConfigError(f"duration: received {text!r}, expected a number with s, m, h or d, such as 90d")
    return float(found[1]) * UNITS[found[2]]


def _keys(home: HomeOption) -> Keys:
    from llm_pipeline.serving.traffic.state import State

    return State(open_home(home).endpoint).keys


def _only(keys: Keys, name: str) -> KeyInfo:
    found = [key for key in keys.listed(name) if _in_force(key)]
    if len(found) != 1:
        names = ", ".join(sorted({key.name for key in keys.listed() if _in_force(key)}))
        raise MissingError(f"{len(found)} keys in force are named {name!r}, expected one; there are: {names or 'none'}")
    return found[0]


def _in_force(key: KeyInfo) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > time.time())


def admin(context: typer.Context) -> None:
    """Run the admin API alone. Example: llm-pipeline endpoint admin --folder .llm_pipeline/endpoint --port 8089"""
    os.execv(sys.executable, [sys.executable, "-m", "llm_pipeline.serving.admin.app", *context.args])


def register(app: typer.Typer) -> None:
    app.command()(key)
    app.command()(keys)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(admin)
