"""TLS of a whole endpoint: `endpoint up` with a certificate makes gateways and admin API speak it, and clients here trust it."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_pipeline.errors import ConfigError
from llm_pipeline.serving.cli import app
from llm_pipeline.serving.supervision import client
from llm_pipeline.serving.traffic.database import settings
from llm_pipeline.serving.traffic.replay import Replay
from llm_pipeline.store import Home
from llm_pipeline_tests.certificates import self_signed
from llm_pipeline_tests.serving.test_endpoint import until


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    client.down(home)


@pytest.mark.slow
def test_gateways_and_admin_api_speak_tls(ended: Home, tmp_path: Path) -> None:
    certificate, private_key = self_signed(tmp_path)
    files = ["--certificate", str(certificate), "--private-key", str(private_key)]
    result = CliRunner().invoke(app, ["up", *files, "--home", str(ended.root), "--json"], catch_exceptions=False)
    found = client.endpoint(ended)
    assert json.loads(result.stdout)["url"] == found.url
    assert found.url.startswith("https://127.0.0.1:")
    status = client.status(ended)
    assert (status["up"], status["ready"]) == (True, False)  # nothing is deployed, and it says so over TLS
    admin = settings(ended.endpoint)["admin_url"]
    until(lambda: _status(f"{admin}/healthz", found.trust) == 200)
    for url in (found.url, admin):
        assert _status(f"{url}/healthz".replace("https", "http"), None) != 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(f"{url}/healthz", timeout=20)
    with Replay(found, [{"messages": [{"role": "user", "content": "hello"}]}], clients=1) as replay:
        until(lambda: replay.sent > 0)


def test_files_that_are_no_certificate_are_refused_before_anything_starts(tmp_path: Path) -> None:
    home, (certificate, private_key) = Home(tmp_path / "home"), self_signed(tmp_path)
    with pytest.raises(ConfigError, match=r"no PEM certificate and its key"):
        client.ensure_up(home, certificate=private_key, private_key=certificate)
    with pytest.raises(ConfigError, match="no file"):
        client.ensure_up(home, certificate=tmp_path / "none.pem")
    with pytest.raises(ConfigError, match="a private key alone"):
        client.ensure_up(home, private_key=private_key)
    assert not client.is_up(home)


def _status(url: str, trust: ssl.SSLContext | None) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20, context=trust) as reply:
            return int(reply.status)
    except OSError:
        return 0
