import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_pipeline.errors import ConfigError, MissingError
from llm_pipeline.serving.cli import app
from llm_pipeline.serving.protection.cli import seconds_of
from llm_pipeline.serving.protection.keys import Keys, Limits, key_hash
from llm_pipeline.serving.traffic.database import open_database


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(open_database(tmp_path))


def test_a_key_has_labels_limits_and_an_end(keys: Keys) -> None:
    limits = Limits(requests_per_minute=60, monthly_cost=2.5)
    secret = keys.add("app", ["chat"], labels=["acme"], limits=limits, expires_at=time.time() + 60)
    key = keys.valid()[key_hash(secret)]
    assert (key.scopes, key.labels, key.limits) == ({"chat"}, {"acme"}, limits)
    with pytest.raises(ConfigError, match="a time to come"):
        keys.add("late", ["chat"], expires_at=time.time() - 1)
    keys.change(key.id, expires_at=time.time() - 1)
    assert keys.valid() == {}
    assert [info.name for info in keys.listed()] == ["app"]
    with pytest.raises(MissingError, match="no key 1 in force"):
        keys.rotate(key.id)


def test_both_secrets_of_a_rotated_key_are_accepted_during_the_overlap_and_only_two(keys: Keys) -> None:
    identity, first = keys.create("app", ["chat"], labels=["acme"])
    second = keys.rotate(identity)
    accepted = keys.valid()
    assert accepted[key_hash(first)] is accepted[key_hash(second)]
    assert accepted[key_hash(second)].id == identity
    assert (keys.listed()[0].rotates_until or 0) > time.time() + 80_000
    third = keys.rotate(identity, overlap_seconds=60)
    assert set(keys.valid()) == {key_hash(second), key_hash(third)}
    fourth = keys.rotate(identity, overlap_seconds=0)
    assert set(keys.valid()) == {key_hash(fourth)}
    keys.rotate(identity)
    assert keys.revoke(identity) == 1
    assert keys.valid() == {}


def test_a_list_shows_last_uses_and_no_hash(keys: Keys) -> None:
    identity, secret = keys.create("app", ["chat"])
    assert keys.listed("app")[0].last_used is None
    keys.seen(identity)
    keys.write_seen()
    [info] = keys.listed("app")
    assert info.last_used == pytest.approx(time.time(), abs=60)
    assert key_hash(secret) not in str(asdict(info))
    assert secret not in str(asdict(info))
    assert keys.listed("other") == []


def test_labels_and_limits_of_a_key_can_be_changed(keys: Keys) -> None:
    identity, secret = keys.create("app", ["chat"])
    keys.change(identity, labels=["acme"], limits=Limits(concurrent=3))
    key = keys.valid()[key_hash(secret)]
    assert (key.labels, key.limits.concurrent) == ({"acme"}, 3)


@pytest.mark.slow
def test_keys_on_postgresql(postgres: str) -> None:
    db = open_database(postgres.replace("postgresql://", "postgresql+psycopg2://"))
    keys = Keys(db)
    identity, first = keys.create("app", ["chat"], labels=["acme"], limits=Limits(concurrent=2))
    second = keys.rotate(identity)
    keys.change(identity, labels=["other"])
    keys.seen(identity)
    keys.write_seen()
    valid, [info] = keys.valid(), keys.listed("app")
    assert valid[key_hash(first)].labels == valid[key_hash(second)].labels == {"other"}
    assert (info.limits.concurrent, info.last_used is None) == (2, False)
    assert keys.revoke("app") == 1
    db.dispose()


def test_the_command_line_makes_lists_rotates_and_revokes(tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    limits = ("--requests-per-minute", "60", "--monthly-cost", "2.5", "--expires", "90d")
    made = run("key", "app", "--scope", "chat", "--label", "acme", *limits)
    [shown] = run("keys")["keys"]
    assert shown | {"created_at": "", "expires_at": ""} == {
        "id": 1, "name": "app", "scopes": ["chat"], "labels": ["acme"], "requests_per_minute": 60, "monthly_cost": 2.5,
        "created_at": "", "expires_at": "",
    }  # fmt: skip
    rotated = run("key", "app", "--rotate", "--overlap", "2h")
    valid = Keys(open_database(tmp_path / "endpoint")).valid()
    assert set(valid) == {key_hash(made["key"]), key_hash(rotated["key"])}
    assert run("key", "app", "--revoke") == {"revoked": 1}
    assert run("keys") == {"keys": []}
    assert len(run("keys", "--all")["keys"]) == 1
    with pytest.raises(MissingError, match="0 keys in force are named 'app'"):
        run("key", "app", "--rotate")
    with pytest.raises(ConfigError, match="one of them"):
        run("key", "app", "--rotate", "--revoke")


def test_durations() -> None:
    assert [seconds_of(text) for text in ("45s", "30m", "1.5h", "90d")] == [45, 1800, 5400, 7_776_000]
    with pytest.raises(ConfigError, match="such as 90d"):
        seconds_of("soon")
